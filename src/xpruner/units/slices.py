"""Cutting as data: along which axes of which tensors the units of a module lie."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.layers import LayerNorm2d
from torch import nn

from xpruner.units.base import Gate
from xpruner.units.registry import Share


@dataclass(frozen=True)
class Slice:
    """Where units lie in one tensor: the axis reads (outer, units, inner), between others where so told.

    Attributes:
        tensor: Path of a parameter or buffer, relative to the module.
        axis: Which of its dimensions.
        outer: How often the units repeat along it, e.g. 3 for q, k and v stacked in one layer.
        start: How many channels of others lie in front.
        stop: Where channels of others begin behind; None for the end.
    """

    tensor: str
    axis: int = 0
    outer: int = 1
    start: int = 0
    stop: int | None = None


def rows(module: nn.Module, path: str, outer: int = 1, start: int = 0, stop: int | None = None) -> list[Slice]:
    """Returns the slices of what a layer puts out: axis 0 of every tensor in it, norms and biases included.

    A path to no module, or to None, has no slices; layers that are sometimes absent need no special case.
    """
    layer = _child(module, path)
    if layer is None:
        return []
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    return [Slice(f"{path}.{name}", 0, outer, start, stop) for name, tensor in tensors if tensor.ndim]


def columns(path: str, outer: int = 1, start: int = 0, stop: int | None = None) -> Slice:
    """Returns the slice of what a linear layer or convolution reads."""
    return Slice(f"{path}.weight", 1, outer, start, stop)


def table(module: nn.Module, path: str, axis: int = 0, outer: int = 1) -> list[Slice]:
    """Returns the slice of a bare parameter or buffer, or nothing where the module has none of that name."""
    owner, _, name = path.rpartition(".")
    holder = _child(module, owner)
    return [Slice(path, axis, outer)] if isinstance(getattr(holder, name, None), torch.Tensor) else []


class SlicedAdapter:
    """An adapter for modules whose units are told by slices; its subclasses say which.

    The whole cost of the module goes with its units, save that of the submodules in ``apart``.
    """

    kind = ""
    may_be_empty = False
    consumer = ""
    """Path of the layer that reads the units."""
    owns: tuple[str, ...] = ()
    """Children in which no further units are looked for."""
    spanning = ""
    """Path of a norm over all units, in front of the consumer, in modules that have one."""
    apart: tuple[str, ...] = ()
    """Paths of submodules that cost the same however many units there are."""
    stand_ins: ClassVar[Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]]] = {}
    """For stock classes that cannot hold fewer units, the class of ours that can."""

    def holds(self, module: Any) -> bool:
        """Returns True, unless a subclass knows of instances without units."""
        return True

    def refuse(self, module: Any) -> str | None:
        """Returns None, or that a norm over all units is of a kind that is not known to work on fewer."""
        norm = _child(module, self.spanning) if self.spanning else None
        if isinstance(norm, nn.Identity | None) or is_layer_norm(norm):
            return None
        return f"its {type(norm).__name__} spans all of its {self.kind} units, so cutting one would change the others"

    def size(self, module: Any) -> int:
        """Returns how many units the module has."""
        raise NotImplementedError

    def slices(self, module: Any) -> list[Slice]:
        """Returns where the units lie."""
        raise NotImplementedError

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        """Returns the attributes of a module that keeps ``count`` units, by path."""
        return {}

    def gate(self, module: Any) -> Gate:
        """Returns the gate at the consumer's input, or at the LayerNorm in front of it."""
        inner = module.get_submodule(self.consumer).weight.shape[1] // self.size(module)
        if self.spanning and is_layer_norm(_child(module, self.spanning)):
            return Gate(self.spanning, "norm", inner=inner)
        return Gate(self.consumer, inner=inner)

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[Share]:
        """Returns one share: everything but what lies ``apart``."""
        own = macs("") - sum(macs(path) for path in self.apart if _child(module, path) is not None)
        return [Share(own, params_of(module, self.slices(module)), (self.kind,))]

    def resizable(self, module: nn.Module) -> nn.Module:
        """Returns the module, or its stand-in."""
        stand_in = self.stand_ins.get(type(module))
        return stand_in(module) if stand_in else module

    def cut(self, module: Any, keep: torch.Tensor) -> None:
        """Cuts every tensor that the slices name, in place, and sets what depends on the number of units."""
        size = self.size(module)
        attributes = self.attributes(module, len(keep))
        for where in self.slices(module):
            _cut(module, where, keep, size)
        for path, value in attributes.items():
            owner, _, name = path.rpartition(".")
            setattr(module.get_submodule(owner), name, value)


def is_layer_norm(norm: nn.Module | None) -> bool:
    """Whether a norm is a LayerNorm over the last dimension alone, whose gate is the LayerNorm of fewer channels."""
    if not isinstance(norm, nn.LayerNorm) or isinstance(norm, LayerNorm2d):
        return False
    return norm.weight is not None and norm.bias is not None


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


def _child(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split(".") if path else ():
        module = getattr(module, name, None)  # type: ignore[assignment]
        if not isinstance(module, nn.Module):
            return None
    return module


def _cut(module: nn.Module, where: Slice, keep: torch.Tensor, size: int) -> None:
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
