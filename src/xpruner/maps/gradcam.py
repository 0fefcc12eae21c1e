"""Grad-CAM on the tokens that the last attention reads."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.errors import UsageError
from xpruner.maps.anatomy import Anatomy, anatomy_of
from xpruner.maps.attention import AttentionRecord, record_attention
from xpruner.maps.pixels import to_pixels
from xpruner.maps.registry import explained_score, register_map


@register_map("gradcam")
def gradcam(model: nn.Module, images: Tensor, targets: Tensor | None, layer: str | None = None) -> Tensor:
    """Returns Grad-CAM, at least 0 (Selvaraju et al. 2017, equations 1 and 2), over the tokens of the patches.

    Each channel is weighed by the mean over patches of the explained logit's gradient; the map is the positive part of
    the weighed sum of the channels.

    Args:
        model: The classifier.
        images: (batch, channels, height, width).
        targets: (batch,) classes, or None.
        layer: Path of a module within a block that puts out the tokens. By default they are what the last attention
            reads, the output of its block's first norm: behind it, the gradient at the patches is 0 where a class
            token alone is read. A block whose attention was pruned is passed over for the same reason.

    Raises:
        UsageError: If the model cannot be read, a class does not exist, or the layer is unknown, in no block or puts
            out something else than tokens.
    """
    anatomy = anatomy_of(model)
    block: Any = anatomy.attending[-1]
    caught: list[Tensor] = []
    with ExitStack() as stack:
        if layer is None and not anatomy.windowed:  # ResPostBlock has its norm elsewhere, so the norm is not read
            stack.enter_context(block.attention.register_forward_pre_hook(lambda _m, args: caught.append(args[0])))
        else:
            layer = layer or f"{block.path}.{anatomy.norm}"
            stack.enter_context(
                _module(model, layer).register_forward_hook(lambda _m, _a, output: caught.append(output))
            )
        logits, records = record_attention(model, anatomy, images)
    record = _record_of(records, layer or block.path)
    (gradient,) = torch.autograd.grad(explained_score(logits, targets), caught, materialize_grads=True)
    tokens = _patches(caught[0].detach(), anatomy, record, layer)
    weights = _patches(gradient, anatomy, record, layer).mean(1, keepdim=True)
    return to_pixels((weights * tokens).sum(-1).relu().unflatten(1, record.grid), record.cell, images.shape[-2:])


def _module(model: nn.Module, path: str) -> Any:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise UsageError(f"The {type(model).__name__} has no layer {path!r}; name a module within a block.") from error


def _record_of(records: list[AttentionRecord], layer: str) -> AttentionRecord:
    for record in records:
        if f"{layer}.".startswith(f"{record.path}."):
            return record
    raise UsageError(f"The layer {layer!r} lies in no block; name a module within one, such as '{records[-1].path}'.")


def _patches(tokens: Tensor, anatomy: Anatomy, record: AttentionRecord, layer: str | None) -> Tensor:
    """Returns (batch, patches, channels) of (batch, tokens, channels) or (batch, rows, columns, channels)."""
    flat = tokens.flatten(1, -2)
    if flat.shape[1] != anatomy.prefix + record.grid[0] * record.grid[1]:
        raise UsageError(
            f"The layer {layer!r} puts out {tuple(tokens.shape)}; name one that puts out one vector a token."
        )
    return flat[:, anatomy.prefix :]
