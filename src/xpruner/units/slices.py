"""Cutting as data: along which axes of which tensors the units of a module lie."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Slice:
    """Where units lie in one tensor: the axis reads (outer, units, inner), from ``start`` to ``stop``.

    Attributes:
        tensor: Path of a parameter or buffer, relative to the module.
        axis: Which of its dimensions.
        outer: How often the units repeat along it, e.g. 3 for q, k and v stacked in one layer.
        start: How many channels of others lie in front.
        stop: Where channels of others begin behind them; None for the end.
    """

    tensor: str
    axis: int = 0
    outer: int = 1
    start: int = 0
    stop: int | None = None


def rows(module: nn.Module, path: str, outer: int = 1, start: int = 0, stop: int | None = None) -> list[Slice]:
    """Returns the slices of a layer's output: axis 0 of every tensor in it, norms and biases included.

    A path to no module, or to None, has no slices; layers that are sometimes absent need no special case.
    """
    layer = child_of(module, path)
    if layer is None:
        return []
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    return [Slice(f"{path}.{name}", 0, outer, start, stop) for name, tensor in tensors if tensor.ndim]


def columns(path: str, outer: int = 1, start: int = 0, stop: int | None = None) -> Slice:
    """Returns the slice of the input of a linear layer or convolution."""
    return Slice(f"{path}.weight", 1, outer, start, stop)


def table(module: nn.Module, path: str, axis: int = 0, outer: int = 1) -> list[Slice]:
    """Returns the slice of a bare parameter or buffer, or nothing where the module has none of that name."""
    owner, _, name = path.rpartition(".")
    holder = child_of(module, owner)
    return [Slice(path, axis, outer)] if isinstance(getattr(holder, name, None), torch.Tensor) else []


def params_of(module: nn.Module, slices: list[Slice]) -> int:
    """Returns the number of parameters in the slices, buffers not counted."""
    parameters = dict(module.named_parameters())
    return sum(_numel(parameters[where.tensor], where) for where in slices if where.tensor in parameters)


def macs_of(module: nn.Module, slices: list[Slice], macs: Callable[[str], float]) -> float:
    """Returns the multiply-accumulates of the layers whose weights are in the slices, of each as large a part as is."""
    found = 0.0
    for where in slices:
        layer, _, name = where.tensor.rpartition(".")
        if name == "weight":
            weight = module.get_parameter(where.tensor)
            found += macs(layer) * _numel(weight, where) / weight.numel()
    return found


def _numel(tensor: torch.Tensor, where: Slice) -> int:
    length = tensor.shape[where.axis]
    return tensor.numel() // length * len(range(length)[where.start : where.stop])


def child_of(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split(".") if path else ():
        module = getattr(module, name, None)  # type: ignore[assignment]
        if not isinstance(module, nn.Module):
            return None
    return module


def cut_slice(module: nn.Module, where: Slice, keep: torch.Tensor, size: int) -> None:
    path, _, name = where.tensor.rpartition(".")
    owner = module.get_submodule(path)
    tensor = getattr(owner, name)
    numbers = torch.arange(tensor.shape[where.axis], device=tensor.device)
    units = numbers[where.start : where.stop].view(where.outer, size, -1)[:, keep.to(tensor.device)].flatten()
    others = numbers[where.stop :] if where.stop is not None else numbers[:0]
    kept = tensor.detach().index_select(where.axis, torch.cat([numbers[: where.start], units, others]))
    if isinstance(tensor, nn.Parameter):
        kept = nn.Parameter(kept, requires_grad=tensor.requires_grad)
    setattr(owner, name, kept)
    _refresh(owner)


def _refresh(layer: Any) -> None:
    """Sets the sizes that a layer of torch keeps beside its weight."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Conv1d | nn.Conv2d):
        if layer.groups == layer.in_channels == layer.out_channels:  # depthwise
            layer.groups = len(layer.weight)
        layer.out_channels, layer.in_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.ConvTranspose2d):
        layer.in_channels = len(layer.weight)
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.num_features = len(layer.weight)
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
