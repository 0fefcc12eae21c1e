"""The protocol of adapters: how the units of one kind in one class of module are counted, gated and cut."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from xpruner.units.base import Gate
from xpruner.units.modules.replace import replace_module
from xpruner.units.slices import Slice


@dataclass(frozen=True)
class CostShare:
    """A part of a module's cost and the kinds of unit that it is proportional to.

    Attributes:
        macs: Multiply-accumulates for one image.
        params: Parameters.
        kinds: Of the module's own units, such as ``head``; ``embed`` for the residual stream that the module reads or
            writes; or the whole key of another group. The weights of the values have ``("head", "v", "embed")``.
    """

    macs: float
    params: float
    kinds: tuple[str, ...]


class Adapter(Protocol):
    """How the units of one kind in one class of module are counted, gated and cut; one stateless instance a class.

    Most adapters derive from :class:`~xpruner.units.SlicedAdapter`, which implements all of this from the places of
    the units in the module's tensors::

        @register_adapter(MyMlp)
        class MyHiddenUnits(SlicedAdapter):
            kind = "hidden"
            consumer = "fc2"

            def size(self, module):
                return module.fc1.out_features

            def slices(self, module):
                return [*rows(module, "fc1"), columns("fc2")]

    An adapter is correct when the cut model computes what the gated model computes: for every plan,
    ``apply(model, plan)`` has the outputs of ``model`` under ``gating(model, units, plan.gates())``.

    ``module`` is typed Any: an adapter reads attributes that only its own class has. All paths are relative to it.

    Attributes:
        kind: One of ``xpruner.units.KINDS``.
        whole_model: Whether the units run through the whole model, as those of a residual stream do; ``module`` is
            then the model. Such adapters are registered by ``xpruner.units.register_streams``.
        owns: Children in which no further units are looked for, because this adapter cuts them.
    """

    kind: str
    whole_model: bool
    owns: tuple[str, ...]

    def holds(self, module: Any) -> bool:
        """Returns whether this instance of the class has such units at all."""

    def refuse(self, module: Any) -> str | None:
        """Returns why this instance cannot be cut exactly, as a clause for a message; None where it can."""

    def size(self, module: Any) -> int:
        """Returns how many units the module has now, after any earlier cut."""

    def gates(self, module: Any) -> tuple[Gate, ...]:
        """Returns where gates act: one at the input of the consumer, or several for units that several layers read."""

    def slices(self, module: Any) -> list[Slice]:
        """Returns where the units lie in the module's tensors: which weights belong to which unit."""

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        """Returns the parts of the module's cost that depend on units, each part once over all of its adapters.

        Args:
            module: The module.
            macs: Returns the MACs of a submodule by its path; of the module itself for "".
        """

    def resizable(self, module: Any) -> nn.Module:
        """Returns the module, or a replacement with its weights that can have fewer units and has the same adapter."""

    def cut(self, module: Any, keep: torch.Tensor) -> None:
        """Keeps only the units in ``keep``, in place, and updates every attribute that depends on their number.

        Args:
            module: From :meth:`resizable`.
            keep: Indices of at least one unit, ascending.
        """

    def remains(self, module: Any) -> nn.Module | None:
        """Returns what takes the module's place when no unit is kept; None where at least one must be kept."""


@dataclass(frozen=True)
class PrunablePart:
    """Units of one kind in a model: where they are, the module that holds them, and the adapter that cuts it.

    Attributes:
        path: Of the module; for units of the whole model the name of their group.
        module: The module, or the whole model.
        adapter: Its adapter.
    """

    path: str
    module: nn.Module
    adapter: Adapter

    @property
    def key(self) -> str:
        """The key of the unit group."""
        return f"{self.path}:{self.adapter.kind}"

    @property
    def size(self) -> int:
        """How many units there are."""
        return self.adapter.size(self.module)

    @property
    def location(self) -> str:
        """Path of the module in the model: "" for the whole model."""
        return "" if self.adapter.whole_model else self.path

    @property
    def is_one_unit(self) -> bool:
        """Whether the module itself is the unit, so that all units inside it are pruned with it."""
        return any(gate.at == "skip" for gate in self.adapter.gates(self.module))

    def resized(self, model: nn.Module) -> nn.Module:
        """Returns the module in the model after replacing it, in place, by one that can have fewer units if need be."""
        module = model.get_submodule(self.location)
        able = self.adapter.resizable(module)
        if able is not module:
            replace_module(model, self.location, able)
        return able

    def contains(self, path: str) -> bool:
        """Returns whether a path lies in this module, or is the module's own."""
        return not self.location or f"{path}.".startswith(f"{self.location}.")
