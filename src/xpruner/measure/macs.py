"""What a model costs: multiply-accumulates by torch's own counter, module by module, and parameters."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from xpruner.runtime.hooks import hooked


@dataclass(frozen=True)
class Trace:
    """The multiply-accumulates of one image, of the model ("") and of every module that does any, by path."""

    macs: Mapping[str, float]

    @property
    def total(self) -> float:
        """Of the whole model."""
        return self.macs.get("", 0)

    def below(self, path: str) -> Callable[[str], float]:
        """Returns the function that gives the MACs of a module by its path relative to ``path``."""
        return lambda inner: self.macs.get(f"{path}.{inner}".strip("."), 0)


def input_size(model: Any) -> tuple[int, int, int]:
    """Returns (channels, height, width) of the images that a timm or transformers model takes.

    What was noted of the model (``models.about``) wins over what it was built for.
    """
    noted = getattr(getattr(model, "xpruner_about", None), "input", None)
    if noted is not None:
        return noted.shape
    config: Any = getattr(model, "config", None)
    config = getattr(config, "vision_config", config)
    if getattr(config, "image_size", None):
        side = config.image_size
        height, width = (side, side) if isinstance(side, int) else side
        return getattr(config, "num_channels", 3), height, width
    published = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    channels = published[0]
    if first is not None and first.kernel_size != (1, 1):  # else it reads features of some other transform
        channels = first.in_channels
    height, width = getattr(getattr(model, "patch_embed", None), "img_size", None) or published[1:]
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
    return trace(model, size).total


def trace(model: nn.Module, size: tuple[int, int, int] | None = None) -> Trace:
    """Runs one image through a weightless twin of the model on the meta device; the model itself is not touched."""
    weightless = {id(tensor): tensor.detach().to("meta") for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, weightless).eval()
    image = torch.empty(1, *(size or input_size(model)), dtype=next(model.parameters()).dtype, device="meta")
    try:
        flops = _count_flops(twin, image)
    except RuntimeError as error:
        if "meta tensors" not in str(error):
            raise
        with _Agreeing():
            flops = _count_flops(twin, image)
    return Trace({path: count / 2 for path, count in flops.items() if count})


@torch.no_grad()
def _count_flops(twin: nn.Module, image: torch.Tensor) -> dict[str, int]:
    """Counts what is done between the start and the end of every module of the twin.

    The counter's own record by module also counts modules that other threads run meanwhile.
    """
    flops: dict[str, int] = defaultdict(int)
    starts: list[int] = []

    def end(path: str, *_: object) -> None:
        flops[path] += counter.get_total_flops() - starts.pop()

    def hooks() -> Iterator[RemovableHandle]:
        for path, module in twin.named_modules():
            yield module.register_forward_pre_hook(lambda *_: starts.append(counter.get_total_flops()))
            yield module.register_forward_hook(partial(end, path))

    with FlopCounterMode(display=False) as counter, hooked(hooks()):
        twin(image)
    return flops


class _Agreeing(TorchDispatchMode):
    """Answers yes to what a model asks of tensors without values, such as whether its mask of padding is all ones."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))
