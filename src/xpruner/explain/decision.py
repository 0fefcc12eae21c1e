"""Why a unit was kept or pruned, and at which cost it would be otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xpruner.plan.budget import minimum
from xpruner.plan.plan import Plan
from xpruner.run.finished import FinishedRun
from xpruner.units import UnitGroup, Units


@dataclass(frozen=True)
class Decision:
    """What a run decided on one unit of the dense model.

    Attributes:
        run: A run with masks.
        group: The unit's.
        index: Of the unit.
    """

    run: FinishedRun
    group: UnitGroup
    index: int

    @cached_property
    def importance(self) -> float:
        """Of the unit, as the plan saw it."""
        return self.run.importance[self.group.key][self.index].item()

    @cached_property
    def lowest_kept(self) -> float | None:
        """The lowest importance of a kept unit of the group; None where none was kept."""
        return lowest_kept(self.run.importance, self.run.plan).get(self.group.key)

    @cached_property
    def kept(self) -> bool:
        """Whether the unit was kept."""
        return self.index in self._kept_units

    @cached_property
    def kept_at(self) -> float | None:
        """The smallest share of the dense model's cost at which it would be kept; None where that is unknown.

        It is unknown where importance alone did not decide: with learned thresholds, with a guard whose multipliers
        were not stored, or in an early round.
        """
        if self._multipliers_missing or self._by_learned_thresholds:
            return None
        share = cost_at(self.run.importance, self.run.plan, self.run.units, self.group.key, self.index)
        if self.kept:
            return None if self._by_minimum else share
        passed_over = self.lowest_kept is not None and self.importance >= self.lowest_kept
        return None if passed_over or share <= self.run.budget.amount else share

    @property
    def why(self) -> str:
        """One sentence."""
        return self._why_kept() if self.kept else self._why_pruned()

    def _why_kept(self) -> str:
        kind, count, importance = self.group.kind, len(self._kept_units), f"{self.importance:.3g}"
        if self._by_minimum:
            return (
                f"Kept: importance {importance}; units of other layers with a higher one were pruned, but a module "
                f"always keeps {self._minimum} {kind} unit{'s' if self._minimum > 1 else ''}."
            )
        above = int((self.run.importance[self.group.key][list(self._kept_units)] > self.importance).sum())
        otherwise = "" if self.kept_at is None else f"; it would be pruned below {_percent(self.kept_at)}"
        return (
            f"Kept: importance {importance}; {above or 'none'} of the {count} {kind} units kept in this layer "
            f"{'has' if above < 2 else 'have'} a higher one{otherwise}."
        )

    def _why_pruned(self) -> str:
        importance = f"{self.importance:.3g}"
        otherwise = "" if self.kept_at is None else f"; it would be kept at {_percent(self.kept_at)}"
        if self.lowest_kept is None:
            return f"Pruned: importance {importance}; no {self.group.kind} unit of this layer is kept{otherwise}."
        lowest = f"{self.lowest_kept:.3g}"
        if self._multipliers_missing:
            return (
                "Pruned by the guard of the classes, whose multipliers this run did not store: without them the "
                f"importance is {importance}, and the lowest kept in this layer is {lowest}."
            )
        if self.importance < self.lowest_kept:
            return f"Pruned: importance {importance}; the lowest kept in this layer is {lowest}{otherwise}."
        if self.run.config.rounds > 1 and not self._guarded:
            return (
                f"Pruned in an early round, before importance was re-estimated: importance {importance} at that time; "
                f"the lowest kept in this layer is {lowest} now."
            )
        return (
            f"Pruned: importance {importance}, no lower than the lowest kept in this layer, {lowest}; the unit did not "
            "fit into the rest of the budget."
        )

    @cached_property
    def _kept_units(self) -> range | list[int]:
        return self.run.plan.keep.get(self.group.key, range(self.group.size))

    @property
    def _minimum(self) -> int:
        return minimum(self.group, self.run.budget.multiple(self.group))

    @cached_property
    def _by_minimum(self) -> bool:
        """Whether it is kept by the minimum of its module, while more important units of other layers were pruned."""
        plan, importance = self.run.plan, self.run.importance
        higher = any((importance[key][gate == 0] > self.importance).any() for key, gate in plan.gates().items())
        return len(self._kept_units) <= self._minimum and higher

    @property
    def _guarded(self) -> bool:
        return self.run.plan.method.endswith("guarded")

    @property
    def _multipliers_missing(self) -> bool:
        return self._guarded and self.run.guard is None

    @property
    def _by_learned_thresholds(self) -> bool:
        how = self.run.config.thresholds
        return how.mode == "learned" and how.steps > 0 and not self._guarded


def lowest_kept(importance: Mapping[str, Tensor], plan: Plan) -> dict[str, float]:
    """Returns for each group the lowest importance of a kept unit; groups of which none was kept are left out."""
    kept = {key: values[list(plan.keep.get(key, range(len(values))))] for key, values in importance.items()}
    return {key: values.min().item() for key, values in kept.items() if len(values)}


def cost_at(importance: Mapping[str, Tensor], plan: Plan, units: Units, key: str, index: int) -> float:
    """Returns the share of the dense model's cost at which a kept unit is pruned next, or a pruned one is kept first.

    It is the cost of the kept units without all that are less important, or with all that are as important or more.

    Args:
        importance: (units,) by group key.
        plan: Which units are kept, and of which resource the cost is.
        units: The dense model's groups.
        key: Of the unit's group.
        index: Of the unit.
    """
    level, gates = importance[key][index], plan.gates()
    is_kept = key not in gates or gates[key][index] > 0
    keep = {}
    for group in units:
        counts = importance[group.key] >= level
        kept = gates[group.key] > 0 if group.key in gates else torch.ones_like(counts)
        keep[group.key] = (kept & counts if is_kept else kept | counts).nonzero().flatten().tolist()
    resource = plan.budget.get("resource", "macs")
    return units.cost(keep, resource) / units.total(resource)


def _percent(share: float) -> str:
    return f"about {100 * share:.0f} % of the dense model's cost"
