"""From scores to a plan: the solver that meets the budget."""

import math
from collections.abc import Mapping

import torch

from xpruner.errors import XPrunerError
from xpruner.plan.budget import Budget, minimum
from xpruner.plan.plan import Plan
from xpruner.units import Keep, Units


def plan_from_scores(units: Units, scores: Mapping[str, torch.Tensor], budget: Budget, method: str = "") -> Plan:
    """Keeps the units with the highest scores that the budget allows.

    One common threshold is lowered over all groups until the budget is spent; units that would overshoot it are passed
    over, so that smaller ones behind them fill the rest. Every group keeps its minimum. Where widths are multiples,
    units come in bundles of that many, the best of a group first, with their mean score.

    Args:
        units: The model's groups.
        scores: For each group's key (units,) scores, comparable across groups; the highest are kept.
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
                f"The scores of {group.key!r} are not all finite numbers; check the weights of the model and the "
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
        """Buys ``count`` more units of a group, if that is within the limit."""
        price = sum(each * math.prod(self.shares[other] for other in others) for each, others in self.terms[key])
        if self.spent + count * price > limit:
            return False
        self.spent += count * price
        self.shares[key] += count / self.sizes[key]
        return True
