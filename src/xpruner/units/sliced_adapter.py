"""Adapters whose units are defined by slices: what to cut follows from where the units lie."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from timm.layers import LayerNorm2d
from torch import nn

from xpruner.units.adapter import CostShare
from xpruner.units.base import Gate
from xpruner.units.gates import channel_axis
from xpruner.units.modules.branch import ConstantBranch
from xpruner.units.slices import Slice, child_of, cut_slice, params_of


class SlicedAdapter:
    """An :class:`~xpruner.units.Adapter` for units that are defined by slices.

    A subclass sets ``kind`` and ``consumer`` and defines ``size``, ``slices`` and, where other attributes of the module
    depend on the number of units, ``attributes``. The whole cost of the module is proportional to its units, except
    that of the submodules in ``apart``.
    """

    kind = ""
    whole_model = False
    may_be_empty = False
    """Whether the module without units is the constant that its consumer's bias adds."""
    consumer = ""
    """Path of the layer that reads the units."""
    owns: tuple[str, ...] = ()
    """Children in which no further units are looked for."""
    spanning = ""
    """Path of a norm over all units, in front of the consumer, in modules that have one."""
    apart: tuple[str, ...] = ()
    """Paths of submodules that cost the same however many units there are."""
    replacements: ClassVar[Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]]] = {}
    """For stock classes that cannot hold fewer units, the class of ours that can."""

    def holds(self, module: Any) -> bool:
        """Returns True, unless a subclass knows of instances without units."""
        return True

    def refuse(self, module: Any) -> str | None:
        """Returns None, or that a norm over all units is of a kind that is not known to work on fewer."""
        norm = child_of(module, self.spanning) if self.spanning else None
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

    def gates(self, module: Any) -> tuple[Gate, ...]:
        """Returns one gate, at the consumer's input or at the LayerNorm in front of it."""
        inner = module.get_submodule(self.consumer).weight.shape[1] // self.size(module)
        if self.spanning and is_layer_norm(child_of(module, self.spanning)):
            return (Gate(self.spanning, "norm", inner=inner),)
        return (Gate(self.consumer, inner=inner),)

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        """Returns one share: everything but what lies ``apart``."""
        own = macs("") - sum(macs(path) for path in self.apart if child_of(module, path) is not None)
        return [CostShare(own, params_of(module, self.slices(module)), (self.kind,))]

    def resizable(self, module: nn.Module) -> nn.Module:
        """Returns the module, or its replacement."""
        replacement = self.replacements.get(type(module))
        return replacement(module) if replacement else module

    def cut(self, module: Any, keep: torch.Tensor) -> None:
        """Cuts every tensor that the slices name, in place, and sets what depends on the number of units."""
        size = self.size(module)
        attributes = self.attributes(module, len(keep))
        for where in self.slices(module):
            cut_slice(module, where, keep, size)
        for path, value in attributes.items():
            owner, _, name = path.rpartition(".")
            setattr(module.get_submodule(owner), name, value)

    def remains(self, module: Any) -> nn.Module | None:
        """Returns the constant that the consumer's bias adds, for modules that are nothing without their units."""
        gate = self.gates(module)[0]
        if not self.may_be_empty or gate.at == "norm":
            return None
        consumer = module.get_submodule(gate.path)
        bias = consumer.weight.new_zeros(len(consumer.weight)) if consumer.bias is None else consumer.bias
        return ConstantBranch(bias, channel_axis(consumer))


def is_layer_norm(norm: nn.Module | None) -> bool:
    """Whether a norm is a LayerNorm over the last dimension alone, whose gate is the LayerNorm of fewer channels."""
    if not isinstance(norm, nn.LayerNorm) or isinstance(norm, LayerNorm2d):
        return False
    return norm.weight is not None and norm.bias is not None
