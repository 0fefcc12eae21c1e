"""The plan: which units stay, as plain JSON; the budget; and the solver that turns scores into a plan."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from xpruner.errors import UsageError, XPrunerError, unknown
from xpruner.files import reading, write_text
from xpruner.plan.checks import check_read
from xpruner.typed import typed
from xpruner.units import Keep, UnitGroup, Units

VERSION = 1
REMEDY = "write it with Plan.save"
MINIMA = {"head": 1, "hidden": 8, "qk": 4, "v": 4, "embed": 8, "block": 0}
"""How many units of each kind a plan from scores keeps of a group at least."""
_SUFFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Budget:
    """What the pruned model may cost.

    Attributes:
        amount: A fraction of the dense model's cost when at most 1, else an absolute figure.
        resource: ``macs`` or ``params``.
        round_to: For a kind of unit the number of which every kept width is a multiple, such as ``{"hidden": 16}``.
    """

    amount: float
    resource: str = "macs"
    round_to: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: "str | float | Budget", round_to: Mapping[str, int] | None = None) -> "Budget":
        """Reads ``0.5``, ``600M``, ``2.4G``, ``macs:0.5`` or ``params:3M``.

        Raises:
            UsageError: If the text is none of these or not above zero, or a width is rounded to less than one.
        """
        if isinstance(text, Budget):
            return text
        match = re.fullmatch(r"(?:(macs|params):)?([0-9.]+(?:e[+-]?\d+)?)([kmg]?)", str(text).strip().lower())
        try:
            amount = float(match[2]) * _SUFFIXES[match[3]] if match else 0.0
        except ValueError:
            amount = 0.0
        if not match or amount <= 0:
            raise UsageError(
                f"The budget {text!r} is out of range; write a fraction above 0 and at most 1, such as 0.5, or an "
                "absolute figure, such as 600M or params:3M."
            )
        for kind, multiple in (round_to or {}).items():
            if kind not in MINIMA:
                raise unknown("unit kind", kind, MINIMA)
            if multiple < 1:
                raise UsageError(f"round_to is {multiple} for {kind!r}; it must be 1 or more, such as 8.")
        return cls(amount, match[1] or "macs", dict(round_to or {}))

    def target(self, units: Units) -> float:
        """Returns the MACs or parameters that the pruned model may have.

        Raises:
            UsageError: If that is more than the dense model has, or less than can be reached.
        """
        dense = units.total(self.resource)
        target = self.amount * dense if self.amount <= 1 else self.amount
        fewest = {group.key: list(range(minimum(group, self.multiple(group)))) for group in units}
        least = units.cost(fewest, self.resource)
        if not least <= target <= dense:
            raise UsageError(
                f"The budget of {self.amount:g} {self.resource} is out of reach: the dense model has {dense:,.0f} and "
                f"the smallest that keeps {_minima_of(units)} {least:,.0f} "
                f"({least / dense:.3f} of it); ask for something between."
            )
        return target

    def share(self, units: Units) -> float:
        """Returns the target as a share of the dense model's cost.

        Raises:
            UsageError: As :meth:`target`.
        """
        return self.target(units) / units.total(self.resource)

    def multiple(self, group: UnitGroup) -> int:
        """Returns the number of which a kept width of the group is a multiple."""
        return self.round_to.get(group.kind, 1)


def minimum(group: UnitGroup, multiple: int = 1) -> int:
    """Returns how many units a plan from scores keeps of a group at least."""
    least = MINIMA[group.kind]
    return min(group.size, -(-least // multiple) * multiple)


def _minima_of(units: Units) -> str:
    kinds = dict.fromkeys(group.kind for group in units)
    return " and ".join(f"{MINIMA[kind]} {kind}" for kind in kinds) + " units of a module"


@dataclass
class Plan:
    """Which units of a model stay, in the numbering of the model it was made for.

    Attributes:
        keep: For each group's key the indices to keep, ascending; an empty list removes the whole branch.
        sizes: For each group's key how many units it had.
        method: What made the plan.
        budget: What was asked, and of which resource.
        cost: ``macs`` and ``params`` of the dense model and of the pruned one, as counted from the units.
        version: Of the file format.
    """

    keep: dict[str, list[int]]
    sizes: dict[str, int]
    method: str = ""
    budget: dict = field(default_factory=dict)
    cost: dict = field(default_factory=dict)
    version: int = VERSION

    @classmethod
    def of(cls, units: Units, keep: Keep, method: str = "", budget: Budget | None = None) -> "Plan":
        """Builds a plan from the kept indices, checked against the units.

        Raises:
            UsageError: If a key names no group or an index is out of range or repeated.
        """
        cost = {
            f"{resource}_{when}": value
            for resource in ("macs", "params")
            for when, value in (("dense", units.total(resource)), ("pruned", units.cost(keep, resource)))
        }
        plan = cls(
            keep={key: sorted(int(i) for i in indices) for key, indices in keep.items()},
            sizes={key: units[key].size for key in keep},
            method=method,
            budget=asdict(budget) if budget else {},
            cost=cost,
        )
        plan.check({group.key: group.size for group in units})
        return plan

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raises UsageError unless this plan was made for a model whose groups have these sizes."""
        for key, indices in self.keep.items():
            if key not in sizes:
                raise unknown("unit group", key, sizes)
            size = sizes[key]
            if self.sizes.get(key) != size:
                raise UsageError(
                    f"The plan was made for {self.sizes.get(key)} units in {key!r} but the model has {size}; "
                    "apply it to the model it was made for."
                )
            if len(set(indices)) != len(indices) or any(not 0 <= i < size for i in indices):
                raise UsageError(f"The plan's indices for {key!r} are not distinct numbers from 0 to {size - 1}.")

    def gates(self) -> dict[str, torch.Tensor]:
        """Returns the plan as 0/1 gates, one (units,) tensor for each group."""
        gates = {}
        for key, indices in self.keep.items():
            gates[key] = torch.zeros(self.sizes[key])
            gates[key][indices] = 1.0
        return gates

    def after(self, earlier: "Plan") -> "Plan":
        """Returns the one plan that does what ``earlier`` and then this one do, in the earlier one's numbering."""
        keep = dict(earlier.keep)
        sizes = dict(earlier.sizes)
        for key, indices in self.keep.items():
            before = earlier.keep.get(key)
            keep[key] = [before[i] for i in indices] if before is not None else list(indices)
            sizes.setdefault(key, self.sizes[key])
        cost = {**self.cost, **{key: value for key, value in earlier.cost.items() if key.endswith("_dense")}}
        return Plan(keep, sizes, self.method, self.budget, cost)

    def share(self, resource: str = "macs") -> float:
        """Returns what the pruned model costs as a share of the dense one, in ``macs`` or ``params``."""
        return self.cost[f"{resource}_pruned"] / self.cost[f"{resource}_dense"]

    def to_json(self) -> str:
        """Returns the plan as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Reads :meth:`to_json`.

        Raises:
            XPrunerError: If the text is no plan, or one of a newer version.
        """
        try:
            return cls._parsed(text)
        except ValueError as error:
            raise XPrunerError(f"The plan cannot be read ({error}); {REMEDY}.") from error

    @classmethod
    def _parsed(cls, text: str) -> "Plan":
        data = json.loads(text)
        version = data.get("version") if isinstance(data, dict) else None
        if type(version) is int and version > VERSION:
            raise XPrunerError(f"The plan has version {version} but this xpruner reads up to {VERSION}; update it.")
        plan = typed(cls, data, whole=True)
        check_read(plan)
        return plan

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON; the file appears whole or not at all."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path, units: Units | None = None, remedy: str = REMEDY) -> "Plan":
        """Reads a plan written by :meth:`save`.

        Args:
            path: Of the file.
            units: The groups that it has to be made for, where that is known.
            remedy: What helps where it cannot be read.

        Raises:
            XPrunerError: If it is missing or no plan, or was made for another model.
        """
        with reading(Path(path), remedy):
            plan = cls._parsed(Path(path).read_text(encoding="utf-8"))
            if units is not None:
                plan.check({group.key: group.size for group in units})
            return plan


def solve(units: Units, scores: Mapping[str, torch.Tensor], budget: Budget, method: str = "") -> Plan:
    """Keeps the units with the highest scores that the budget allows.

    One common threshold is lowered over all groups until the budget is spent; units that would overshoot it are passed
    over, so that smaller ones behind them fill the rest. Every group keeps its minimum. Where widths are multiples,
    units come in bundles of that many, the best of a group first, with their mean score.

    Args:
        units: The model's groups.
        scores: For each group's key (units,) scores, comparable across groups; higher stays.
        budget: The cost to meet; it is met from below, within the cost of one unit or bundle.
        method: Recorded in the plan.

    Raises:
        UsageError: If the budget cannot be reached.
        XPrunerError: If a score is not a number.
    """
    target = budget.target(units)
    keep: dict[str, list[int]] = {}
    waiting: list[tuple[float, str, list[int]]] = []
    for group in units:
        values = scores[group.key].detach().double().cpu()
        if not torch.isfinite(values).all():
            raise XPrunerError(
                f"The scores of {group.key!r} are not all finite numbers; look at the weights of the model and at the "
                "calibration images, or lower the learning rate where scores are learned."
            )
        order = values.argsort(descending=True, stable=True).tolist()
        multiple = budget.multiple(group)
        least = minimum(group, multiple)
        keep[group.key] = order[:least]
        for first in range(least, group.size, multiple):
            bundle = order[first : first + multiple]
            waiting.append((values[bundle].mean().item(), group.key, bundle))
    ledger = _Ledger(units, keep, budget.resource)
    for _, key, bundle in sorted(waiting, key=lambda entry: -entry[0]):
        if ledger.spend(key, len(bundle), target * (1 + 1e-9)):
            keep[key] += bundle
    return Plan.of(units, keep, method, budget)


class _Ledger:
    """What is spent so far, where the price of a unit may depend on what else is kept."""

    def __init__(self, units: Units, keep: Keep, resource: str):
        self.units, self.resource = units, resource
        self.sizes = {group.key: group.size for group in units}
        self.shares = {key: len(indices) / self.sizes[key] for key, indices in keep.items()}
        self.terms: dict[str, list[tuple[float, list[str]]]] = {group.key: [] for group in units}
        for term in units.terms:
            for key in term.groups:
                others = [other for other in term.groups if other != key]
                self.terms[key].append((getattr(term, resource) / self.sizes[key], others))
        self.spent = units.cost(keep, resource)

    def spend(self, key: str, count: int, limit: float) -> bool:
        """Buys ``count`` more units of a group, if that stays within the limit."""
        price = sum(each * math.prod(self.shares[other] for other in others) for each, others in self.terms[key])
        if self.spent + count * price > limit:
            return False
        self.spent += count * price
        self.shares[key] += count / self.sizes[key]
        return True
