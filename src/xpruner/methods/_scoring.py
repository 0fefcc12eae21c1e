"""Methods that only score units: three allocations, common to all, that turn scores into a plan."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from xpruner.errors import UsageError, unknown
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.plan.solver import plan_from_scores
from xpruner.units import DEFAULT_KINDS, UnitGroup, Units

Scores = dict[str, Tensor]
"""For each group's key (units,) scores; the highest are kept."""
Score = Callable[[Problem], Scores]


def register_score(
    name: str, kinds: tuple[str, ...] = DEFAULT_KINDS, allocation: str = "global", **properties: Any
) -> Callable[[Score], Score]:
    """Registers a score as a method: its plan keeps what scores highest, as the allocation shares the budget.

    Args:
        name: Of the method.
        kinds: Kinds of unit that it prunes by default.
        allocation: The method's own, for a run that asks for no other.
        **properties: Others of :class:`Method`.
    """

    def register(score: Score) -> Score:
        @register_method(name, kinds, **properties)
        def search(problem: Problem) -> Outcome:
            chosen = allocation_of(problem, allocation)
            scores = allocate(score(problem), problem.units, chosen, problem.budget.resource)
            return Outcome(plan_from_scores(problem.units, scores, problem.budget, f"{name}, {chosen}"))

        return score

    return register


def allocation_of(problem: Problem, own: str) -> str:
    """Returns the allocation that a run asks for, or else the method's own."""
    asked = problem.config.search.allocation
    return own if asked == "own" else asked


def allocate(scores: Mapping[str, Tensor], units: Units, allocation: str, resource: str = "macs") -> Scores:
    """Makes scores comparable across groups, so that one common threshold shares the budget among them.

    Args:
        scores: For each group's key (units,) scores; not below zero, except for ``uniform``.
        units: The groups.
        allocation: ``uniform`` keeps the same share of every group, ``global`` compares scores per cost, ``block``
            does so after dividing each block's scores by their sum.
        resource: The cost: ``macs`` or ``params``.

    Raises:
        UsageError: If the allocation is unknown, or compares negative scores per cost: the lower of two would rank
            higher where its unit costs more.
    """
    if allocation == "uniform":
        return {key: rank_shares(score) for key, score in scores.items()}
    if allocation not in ("global", "block"):
        raise unknown("allocation", allocation, ["uniform", "global", "block"])
    _refuse_negative(scores)
    sums: dict[str, float] = {}
    if allocation == "block":
        for group in units:
            sums[_block(group)] = sums.get(_block(group), 0.0) + scores[group.key].sum().item()
    return {
        group.key: scores[group.key] / (sums.get(_block(group)) or 1.0) / getattr(group, resource) for group in units
    }


def rank_shares(scores: Tensor) -> Tensor:
    """Returns for (units,) scores the share of the units that score no higher, from 1 for the best to 1 / units."""
    ranks = torch.empty(len(scores), dtype=torch.double)
    ranks[scores.argsort(stable=True)] = torch.arange(1, len(scores) + 1, dtype=torch.double)
    return ranks / len(scores)


def rank_in_scopes(scores: Scores, units: Units, scope_of: Callable[[UnitGroup], Hashable]) -> Scores:
    """Returns for each unit the share of the units in its scope that score no higher.

    Args:
        scores: For each group's key (units,) scores.
        units: The groups.
        scope_of: What groups of one scope have in common.
    """
    scopes: dict[Hashable, list[UnitGroup]] = {}
    for group in units:
        scopes.setdefault(scope_of(group), []).append(group)
    shares: Scores = {}
    for groups in scopes.values():
        ranked = rank_shares(torch.cat([scores[group.key] for group in groups]))
        parts = ranked.split([group.size for group in groups])
        shares |= {group.key: part for group, part in zip(groups, parts, strict=True)}
    return shares


def _refuse_negative(scores: Mapping[str, Tensor]) -> None:
    for key, score in scores.items():
        if (score < 0).any():
            raise UsageError(
                f"The scores of {key!r} fall to {score.min().item():.3g}, and scores below 0 cannot be compared per "
                "cost; use allocation uniform."
            )


def _block(group: UnitGroup) -> str:
    return group.module.rpartition(".")[0]
