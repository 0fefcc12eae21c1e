"""What a model costs: multiply-accumulates by torch's own counter, parameters, and the shapes behind them."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """Returns (channels, height, width) of the images that a timm model takes as it was built."""
    published = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    embed = getattr(model, "patch_embed", None)
    channels = getattr(getattr(embed, "proj", None), "in_channels", published[0])
    height, width = getattr(embed, "img_size", None) or published[1:]
    return channels, height, width


def count_params(model: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, size: tuple[int, int, int] | None = None) -> float:
    """Returns the multiply-accumulates of one image, by ``torch.utils.flop_counter`` (two FLOPs are one MAC).

    Args:
        model: Any module that takes (batch, channels, height, width).
        size: (channels, height, width); the model's own when absent.
    """
    return trace(model, size)[0]


def trace(model: nn.Module, size: tuple[int, int, int] | None = None) -> tuple[float, dict[str, torch.Size]]:
    """Runs one image through a weightless twin of the model on the meta device; the model itself is not touched.

    Returns:
        The MACs of the image, and for every linear layer the shape of its input (rows, tokens, channels).
    """
    weightless = {id(tensor): tensor.detach().to("meta") for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, weightless).eval()
    shapes: dict[str, torch.Size] = {}
    for name, module in twin.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, args, name=name: shapes.__setitem__(name, args[0].shape))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(torch.empty(1, *(size or input_size(model)), device="meta"))
    return counter.get_total_flops() / 2, shapes
