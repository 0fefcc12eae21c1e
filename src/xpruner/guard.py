"""The guard: no class may lose more than a limit; classes that would are given more weight in what a unit is worth."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from xpruner.compensation import compensate
from xpruner.errors import UsageError
from xpruner.explain.without import class_means
from xpruner.masks import odds
from xpruner.plan import Budget, Plan, solve
from xpruner.surgery import apply
from xpruner.training import predict

if TYPE_CHECKING:
    from xpruner.methods.base import Problem

log = logging.getLogger("xpruner")

IMAGES = 4000
STEPS = 6
RATE = 0.3
"""Of the multipliers, for each percentage point that a class loses beyond the limit; halved after a step too far."""


@dataclass(frozen=True)
class Guarded:
    """What the guard came to.

    Attributes:
        plan: The plan that holds.
        drops: Percentage points of top-1 that each class loses under it, after compensation and before any training,
                (classes,); nan for a class without images.
        weights: (classes,) multipliers that it took, with a mean of 1.
    """

    plan: Plan
    drops: Tensor
    weights: Tensor

    @property
    def worst(self) -> float:
        """Percentage points that the class loses that loses most."""
        return self.drops.nan_to_num(-torch.inf).max().item()


def guarded(problem: "Problem", masks: Mapping[str, Tensor], plan: Plan, limit: float) -> Guarded:
    """Returns a plan under which no class loses more than ``limit`` points, at the budget that is asked.

    The constraint drop_c <= limit has a multiplier w_c for each class; a unit is worth sum_c w_c m[c,u] / (1 - m[c,u]).
    From w = 1 on, w_c <- w_c exp(RATE (drop_c - limit)) for the classes beyond the limit, and the plan is solved anew;
    where that does no good, half the step is taken from the best multipliers so far [our choice]. Drops are measured
    on training images that compensation has not seen.

    Args:
        problem: The run's; its budget stays.
        masks: (classes, units) by group key, on one scale.
        plan: What the search found; taken as it is where it holds.
        limit: Percentage points of top-1.

    Raises:
        UsageError: If no such plan was found, with what was.
    """
    return _Guard(problem, masks, limit).run(plan)


class _Guard:
    """The dense model's answers, and how a plan does beside them."""

    def __init__(self, problem: "Problem", masks: Mapping[str, Tensor], limit: float):
        self.problem, self.limit, self.classes = problem, limit, problem.num_classes
        self.odds = {key: odds(m) for key, m in masks.items()}
        self.images = unseen(problem)
        self.dense, self.labels = self._says(problem.model)

    def run(self, plan: Plan) -> Guarded:
        """Reweighs the classes until the limit holds."""
        best = self._measured(plan, torch.ones(self.classes))
        rate = RATE
        for _ in range(STEPS):
            if best.worst <= self.limit:
                return best
            weights = reweighted(best.weights, best.drops, self.limit, rate)
            found = self._measured(self._solved(weights, self.problem.budget), weights)
            if found.worst < best.worst:
                best = found
            else:
                rate /= 2
        if best.worst > self.limit:
            raise UsageError(self._cannot(best))
        return best

    def _measured(self, plan: Plan, weights: Tensor) -> Guarded:
        found = Guarded(plan, self._drops(plan), weights)
        log.info("guard: the largest drop of a class is %.2f points, allowed are %.2f", found.worst, self.limit)
        return found

    def _solved(self, weights: Tensor, budget: Budget) -> Plan:
        scores = {key: (weights[:, None] * table).mean(0) for key, table in self.odds.items()}
        return solve(self.problem.units, scores, budget, "xpruner, guarded")

    def _drops(self, plan: Plan) -> Tensor:
        problem = self.problem
        model = compensate(
            apply(problem.model, plan), problem.model, plan, problem.calibration, problem.config.compensate,
            precision=problem.config.precision,
        )  # fmt: skip
        said, _ = self._says(model)
        lost = (self.dense == self.labels).double() - (said == self.labels).double()
        return 100 * class_means(lost, self.labels, self.classes)

    def _says(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        config = self.problem.config
        return predict(
            model, self.images, batch_size=config.data.batch_size, workers=config.data.workers,
            precision=config.precision,
        )  # fmt: skip

    def _cannot(self, best: Guarded) -> str:
        """Names what the asked budget can do, and the least of a few larger budgets at which the limit holds."""
        asked = self.problem.budget.target(self.problem.units) / self.problem.units.total(self.problem.budget.resource)
        remedy = f"set max_class_drop to {math.ceil(10 * best.worst) / 10:g} or more"
        for share in torch.linspace(asked, 1.0, 6)[1:-1].tolist():
            plan = self._solved(best.weights, replace(self.problem.budget, amount=share))
            if self._measured(plan, best.weights).worst <= self.limit:
                remedy += f", or the budget to {share:.2f} of the dense model, where it holds"
                break
        return (
            f"No plan was found at {asked:.2f} of the dense model's {self.problem.budget.resource} under which every "
            f"class loses at most {self.limit:g} points before training; {remedy}."
        )


def reweighted(weights: Tensor, drops: Tensor, limit: float, rate: float = RATE) -> Tensor:
    """Returns the multipliers after one step of ascent, with a mean of 1; classes within the limit keep theirs."""
    beyond = (drops - limit).nan_to_num(0.0).clamp(min=0).to(weights)
    raised = weights * torch.exp(rate * beyond)
    return raised / raised.mean()


def unseen(problem: "Problem") -> Dataset:
    """Returns training images without augmentation that are not for calibration, or all where there are no others."""
    train: Any = problem.train
    plain = train.plain() if hasattr(train, "plain") else train
    seen = sum(len(labels) for _, labels in problem.calibration)
    first = seen if len(plain) > seen else 0
    return Subset(plain, range(first, min(len(plain), first + IMAGES)))
