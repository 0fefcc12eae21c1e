"""The nouns of the library: a group of units, all groups of a model, and what the model costs without some of them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from xpruner.errors import unknown
from xpruner.measure.as_text import aligned, amount, percent

Keep = Mapping[str, list[int]]
"""For each group's key the unit indices to keep; a group that is absent keeps all."""


@dataclass(frozen=True)
class Gate:
    """Where and how a gate acts on the channels of one module; the channels read (outer, units, inner).

    Attributes:
        path: Path of the module.
        at: ``input`` or ``output`` multiplies the module's channels; ``norm`` makes a LayerNorm normalise over the
            open channels alone; ``skip`` takes the module's change of its input away.
        outer: How often the units repeat, e.g. the 4 patches that Swin's patch merging reads side by side.
        inner: Consecutive channels of one unit.
        before: Channels in front of the units that belong to others.
    """

    path: str
    at: Literal["input", "output", "norm", "skip"] = "input"
    outer: int = 1
    inner: int = 1
    before: int = 0


@dataclass(frozen=True)
class UnitGroup:
    """The units of one kind in one module, e.g. the heads of ``blocks.3.attn``.

    Attributes:
        key: ``<module path>:<kind>``, e.g. ``blocks.3.attn:head``.
        kind: ``head``, ``hidden``, ``qk``, ``v``, ``embed`` or ``block``.
        module: Path of the module that owns the units.
        size: How many units there are.
        gates: Where a gate on the units acts; heads and hidden units have one, at the input of their consumer.
        macs: Multiply-accumulates of one unit of the dense model, for one image, at the traced input size.
        params: Parameters of one unit of the dense model.
    """

    key: str
    kind: str
    module: str
    size: int
    gates: tuple[Gate, ...]
    macs: float
    params: float

    @property
    def consumer(self) -> str | None:
        """Path of the layer that reads the units and can compensate for pruned ones; None for kinds without one."""
        return self.gates[0].path if self.gates[0].at == "input" else None

    @property
    def channels(self) -> torch.Tensor:
        """The (units, channels of one unit) indices of the consumer's input channels that belong to each unit."""
        gate = self.gates[0]
        numbers = torch.arange(gate.outer * self.size * gate.inner).view(gate.outer, self.size, gate.inner)
        return gate.before + numbers.transpose(0, 1).reshape(self.size, -1)


@dataclass(frozen=True)
class Term:
    """A part of a model's cost that is proportional to the kept share of every group that it names.

    Attributes:
        macs: Multiply-accumulates for one image when all units are there.
        params: Parameters when all units are there.
        groups: Keys of the groups.
    """

    macs: float
    params: float
    groups: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Units:
    """Every prunable group of a model, with what the whole model costs; ``print(units)`` shows them as a table.

    Attributes:
        groups: In the order of the forward pass.
        total_macs: Multiply-accumulates of the whole model for one image.
        total_params: Parameters of the whole model.
        input_size: (channels, height, width) at which the MACs were traced.
        terms: How the cost depends on what is kept; when absent, every unit costs its group's ``macs`` and ``params``.
    """

    groups: tuple[UnitGroup, ...]
    total_macs: float
    total_params: float
    input_size: tuple[int, int, int]
    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        if not self.terms:
            linear = tuple(Term(g.macs * g.size, g.params * g.size, (g.key,)) for g in self.groups)
            object.__setattr__(self, "terms", linear)

    def __repr__(self) -> str:
        return f"Units({len(self)} groups, {sum(group.size for group in self):,} units)"

    def __str__(self) -> str:
        rows = [("group", "kind", "units", "MACs/unit", "params/unit", "of the MACs")]
        for group in self:
            share = percent(group.macs * group.size / self.total_macs)
            rows.append((group.key, group.kind, f"{group.size:,}", amount(group.macs), amount(group.params), share))
        total = f"{len(self)} groups, {sum(group.size for group in self):,} units"
        image = " x ".join(map(str, self.input_size))
        cost = f"{amount(self.total_macs)} MACs for an image of {image}, {amount(self.total_params)} parameters"
        return f"{aligned(rows, names=2)}\n{total}; the whole model: {cost}"

    def __iter__(self) -> Iterator[UnitGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, key: str) -> UnitGroup:
        for group in self.groups:
            if group.key == key:
                return group
        raise unknown("unit group", key, [group.key for group in self.groups])

    def cost(self, keep: Keep, resource: str = "macs") -> float:
        """Returns the MACs or parameters of the model that keeps only the units in ``keep``."""
        shares = {group.key: len(keep[group.key]) / group.size for group in self if group.key in keep}
        return round(self.cost_of(shares, resource), 3)

    def cost_of(self, shares: Mapping[str, Any], resource: str = "macs") -> Any:
        """Returns the MACs or parameters when these shares of the groups are kept; all of the groups not named.

        Args:
            shares: Numbers, or tensors () that a gradient may flow through.
            resource: ``macs`` or ``params``.
        """
        removed = (
            getattr(term, resource) * (1 - math.prod(shares[key] for key in term.groups if key in shares))
            for term in self.terms
            if any(key in shares for key in term.groups)
        )
        return self.total(resource) - sum(removed)

    def total(self, resource: str = "macs") -> float:
        """Returns the dense model's ``macs`` or ``params``."""
        return {"macs": self.total_macs, "params": self.total_params}[resource]

    def of_consumers(self) -> dict[str, list[UnitGroup]]:
        """Returns the groups by the consumer that reads them, in forward order; groups without one are left out."""
        consumers: dict[str, list[UnitGroup]] = {}
        for group in self:
            if group.consumer is not None:
                consumers.setdefault(group.consumer, []).append(group)
        return consumers
