"""The plan: which units are kept, as plain JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from xpruner.config.typed import typed
from xpruner.errors import UsageError, XPrunerError, unknown
from xpruner.files import reading, write_text
from xpruner.measure.as_text import aligned, amount, percent
from xpruner.plan.budget import Budget
from xpruner.plan.checks import check_kept, check_price
from xpruner.units import Keep, Units

VERSION = 1
REMEDY = "write it with Plan.save"


@dataclass(repr=False)
class Plan:
    """Which units of a model are kept, in the numbering of the model it was made for; ``print(plan)`` shows a table.

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

    def __repr__(self) -> str:
        kept, units = (sum(counts) for counts in zip(*self._counts().values(), strict=True)) if self.keep else (0, 0)
        return f"Plan({len(self.keep)} groups, {kept:,} of {units:,} units kept)"

    def __str__(self) -> str:
        rows = [("group", "kept", "of", "share")]
        for key, (kept, size) in self._counts().items():
            rows.append((key, f"{kept:,}", f"{size:,}", percent(kept / size)))
        costs = [
            f"{name} {amount(self.cost[f'{resource}_dense'])} -> {amount(self.cost[f'{resource}_pruned'])} "
            f"({percent(self.share(resource))})"
            for resource, name in (("macs", "MACs"), ("params", "parameters"))
            if self.cost
        ]
        return "\n".join([aligned(rows), ", ".join(costs) or repr(self)])

    def _counts(self) -> dict[str, tuple[int, int]]:
        """Returns for each group's key how many units are kept, and of how many."""
        return {key: (len(indices), self.sizes[key]) for key, indices in self.keep.items()}

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
        check_kept(plan.keep, plan.sizes)
        check_price(plan.budget, plan.cost)
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
