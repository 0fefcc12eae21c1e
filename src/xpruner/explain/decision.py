"""Why a unit stayed or went, and at which cost it would be otherwise."""

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
    def threshold(self) -> float | None:
        """The least importance of a unit of the group that stayed; None where none did."""
        return thresholds(self.run.importance, self.run.plan).get(self.group.key)

    @cached_property
    def kept(self) -> bool:
        """Whether the unit stayed."""
        return self.index in self._stayed

    @cached_property
    def stays_at(self) -> float | None:
        """The least share of the dense model's cost at which it would stay; None where importance does not tell.

        It does not where another order decided: that of learned thresholds, of a guard whose multipliers were not
        kept, or of an early round.
        """
        if self._guard_forgotten or self._by_learned_thresholds:
            return None
        share = cost_at(self.run.importance, self.run.plan, self.run.units, self.group.key, self.index)
        if self.kept:
            return None if self._by_minimum else share
        passed_over = self.threshold is not None and self.importance >= self.threshold
        return None if passed_over or share <= self.run.budget.amount else share

    @property
    def why(self) -> str:
        """One sentence."""
        return self._why_kept() if self.kept else self._why_gone()

    def _why_kept(self) -> str:
        kind, count, s = self.group.kind, len(self._stayed), f"{self.importance:.3g}"
        if self._by_minimum:
            return (
                f"It stays because {self._minimum} {kind} of a module always stay: its importance is {s}, and units of "
                "other layers that count more went."
            )
        above = int((self.run.importance[self.group.key][list(self._stayed)] > self.importance).sum())
        rest = f"{above or 'none'} count{'s' if above < 2 else ''} more"
        goes = "" if self.stays_at is None else f"; below {_percent(self.stays_at)} it would go"
        return f"It stays: its importance is {s}, and of the {count} {kind} units of its layer that stay {rest}{goes}."

    def _why_gone(self) -> str:
        kind, count, s = self.group.kind, len(self._stayed), f"{self.importance:.3g}"
        back = "" if self.stays_at is None else f"; at {_percent(self.stays_at)} it would have stayed"
        if self.threshold is None:
            return f"It went, and no {kind} unit of its layer stayed: its importance is {s}{back}."
        least = f"{self.threshold:.3g}"
        if self._guard_forgotten:
            return (
                "It went as the guard of the classes decided, whose multipliers this run did not keep: without them "
                f"its importance is {s}, and the {count} {kind} units of its layer that stay have {least} and more."
            )
        if self.importance < self.threshold:
            return (
                f"It went: its importance is {s}, and the {count} {kind} units of its layer that stay have {least} and "
                f"more{back}."
            )
        if self.run.config.rounds > 1 and not self._guarded:
            return (
                "It went in an early round, before the others were looked at anew: its importance then was "
                f"{s}, and {least} is what stays now."
            )
        return (
            f"It went though its importance of {s} is no less than {least}, with which units of its layer stay: it did "
            "not fit into what was left of the budget."
        )

    @cached_property
    def _stayed(self) -> range | list[int]:
        return self.run.plan.keep.get(self.group.key, range(self.group.size))

    @property
    def _minimum(self) -> int:
        return minimum(self.group, self.run.budget.multiple(self.group))

    @cached_property
    def _by_minimum(self) -> bool:
        """Whether only what a module keeps at least holds it: units of other layers that count more went."""
        plan, importance = self.run.plan, self.run.importance
        more_went = any((importance[key][gate == 0] > self.importance).any() for key, gate in plan.gates().items())
        return len(self._stayed) <= self._minimum and more_went

    @property
    def _guarded(self) -> bool:
        return self.run.plan.method.endswith("guarded")

    @property
    def _guard_forgotten(self) -> bool:
        return self._guarded and self.run.guard is None

    @property
    def _by_learned_thresholds(self) -> bool:
        how = self.run.config.thresholds
        return how.mode == "learned" and how.steps > 0 and not self._guarded


def thresholds(importance: Mapping[str, Tensor], plan: Plan) -> dict[str, float]:
    """Returns for each group the least importance of a unit that stayed; groups of which none did are left out."""
    stayed = {key: s[list(plan.keep.get(key, range(len(s))))] for key, s in importance.items()}
    return {key: s.min().item() for key, s in stayed.items() if len(s)}


def cost_at(importance: Mapping[str, Tensor], plan: Plan, units: Units, key: str, index: int) -> float:
    """Returns the share of the dense model's cost at which a unit that stayed goes, or one that went comes back.

    It is the cost of what stayed without all that counts less, or with all others that count as much or more.

    Args:
        importance: (units,) by group key.
        plan: What stayed, and of which resource the cost is.
        units: The dense model's groups.
        key: Of the unit's group.
        index: Of the unit.
    """
    level, gates = importance[key][index], plan.gates()
    stays = key not in gates or gates[key][index] > 0
    keep = {}
    for group in units:
        counts = importance[group.key] >= level
        stayed = gates[group.key] > 0 if group.key in gates else torch.ones_like(counts)
        keep[group.key] = (stayed & counts if stays else stayed | counts).nonzero().flatten().tolist()
    resource = plan.budget.get("resource", "macs")
    return units.cost(keep, resource) / units.total(resource)


def _percent(share: float) -> str:
    return f"about {100 * share:.0f} % of the dense model's cost"
