"""Methods that only score units: how their scores become a plan, for all of them in the same three ways."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from xpruner.errors import unknown
from xpruner.methods.base import Outcome, Problem, register_method
from xpruner.plan import solve
from xpruner.units import DEFAULT_KINDS, UnitGroup, Units

Scores = dict[str, Tensor]
"""For each group's key (units,) scores; higher stays."""
Score = Callable[[Problem], Scores]


def register_score(
    name: str, kinds: tuple[str, ...] = DEFAULT_KINDS, allocation: str = "global"
) -> Callable[[Score], Score]:
    """Registers a score as a method: its plan keeps what scores highest, as the allocation shares the budget.

    Args:
        name: Of the method.
        kinds: Kinds of unit that it was made for.
        allocation: The method's own, for a run that asks for no other.
    """

    def register(score: Score) -> Score:
        @register_method(name, kinds)
        def search(problem: Problem) -> Outcome:
            asked = problem.config.search.allocation
            chosen = allocation if asked == "own" else asked
            scores = allocate(score(problem), problem.units, chosen, problem.budget.resource)
            return Outcome(solve(problem.units, scores, problem.budget, f"{name}, {chosen}"))

        return score

    return register


def allocate(scores: Mapping[str, Tensor], units: Units, allocation: str, resource: str = "macs") -> Scores:
    """Makes scores comparable across groups, so that one common threshold shares the budget among them.

    Args:
        scores: For each group's key (units,) non-negative scores.
        units: The groups.
        allocation: ``uniform`` keeps the same share of every group, ``global`` compares scores per cost, ``block``
            does so after dividing each block's scores by their sum.
        resource: The cost: ``macs`` or ``params``.

    Raises:
        UsageError: If the allocation is unknown.
    """
    if allocation == "uniform":
        return {key: rank_shares(score) for key, score in scores.items()}
    if allocation == "global":
        return {group.key: scores[group.key] / getattr(group, resource) for group in units}
    if allocation == "block":
        sums: dict[str, float] = {}
        for group in units:
            sums[_block(group)] = sums.get(_block(group), 0.0) + scores[group.key].sum().item()
        scaled = {group.key: scores[group.key] / (sums[_block(group)] or 1.0) for group in units}
        return allocate(scaled, units, "global", resource)
    raise unknown("allocation", allocation, ["uniform", "global", "block"])


def rank_shares(scores: Tensor) -> Tensor:
    """Returns for (units,) scores the share of the units that score no higher, from 1 for the best to 1 / units."""
    ranks = torch.empty(len(scores), dtype=torch.double)
    ranks[scores.argsort(stable=True)] = torch.arange(1, len(scores) + 1, dtype=torch.double)
    return ranks / len(scores)


def _block(group: UnitGroup) -> str:
    return group.module.rpartition(".")[0]
