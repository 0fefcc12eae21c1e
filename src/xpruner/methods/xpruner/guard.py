"""The guard: no class may lose more than a limit; classes that would are weighted higher in plan and compensation."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xpruner.compensation.fit import compensate
from xpruner.config.typed import typed
from xpruner.data.by_class import class_means
from xpruner.errors import UsageError
from xpruner.files import reading, write_text
from xpruner.masks.class_masks import odds
from xpruner.methods.xpruner.guard_images import unseen, weighed_calibration
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.surgery import apply
from xpruner.training import predict

if TYPE_CHECKING:
    from xpruner.methods._problem import Problem

log = logging.getLogger("xpruner")

STEPS = 6
RATE = 0.5
"""Ascent rate of the multipliers, for each percentage point that a class loses beyond the limit."""
LARGER = (1.1, 1.2, 1.3)
"""Budgets, as multiples of the one that is asked, at which the limit is tried without multipliers."""


@dataclass(frozen=True)
class GuardFigures:
    """Figures of the guard, as plain numbers; drops are percentage points of top-1 after compensation, before training.

    Attributes:
        limit: Most that a class may lose.
        largest: Drop of the class that loses most.
        drops: Of each class by its label; None for a class without images.
        weights: Multiplier of each class by its label, with a mean of 1; all are 1 where the limit already held.
        images: Training images that drops were measured on; none of those used for compensation, if there are others.
        price: Percentage points of top-1 over all these images that the guarded plan loses more than the unguarded one.
        largest_without: Drop of the class that loses most under the plan without the guard.
        budget: The requested one, as a share of the dense model's cost.
        budget_without: The least of a few larger budgets at which the limit holds without multipliers; None where it
            holds at none of them, or already held at the budget.
    """

    limit: float
    largest: float
    drops: list[float | None]
    weights: list[float]
    images: int
    price: float
    largest_without: float
    budget: float
    budget_without: float | None

    @classmethod
    def of(cls, figures: Any, classes: int) -> "GuardFigures":
        """Returns the figures stored by a run of this many classes.

        Raises:
            ValueError: If one is missing, of the wrong type or out of range, or they are for another number of classes.
        """
        found = typed(cls, figures, "search.guard", whole=True)
        if not len(found.drops) == len(found.weights) == classes:
            raise ValueError(f"search.guard has {len(found.weights)} weights, but the run has {classes} classes")
        if min(found.weights) < 0 or found.images < 1:
            raise ValueError("search.guard holds weights below 0, or has no images")
        return found

    @property
    def changed(self) -> bool:
        """Whether the multipliers changed the plan."""
        return any(weight != 1 for weight in self.weights)


@dataclass(frozen=True)
class Guarded:
    """The plan that holds the limit, and its figures."""

    plan: Plan
    figures: GuardFigures


@dataclass(frozen=True)
class _Measured:
    """What a plan loses: points of top-1 of each class, nan for one without images, and over all images."""

    plan: Plan
    weights: Tensor
    drops: Tensor
    overall: float

    @property
    def worst(self) -> float:
        """Percentage points lost by the class that loses most."""
        return self.drops.nan_to_num(-torch.inf).max().item()


def guarded(problem: "Problem", masks: Mapping[str, Tensor], plan: Plan, limit: float) -> Guarded:
    """Returns a plan of the requested budget under which no class loses more than ``limit`` points.

    The constraint drop_c <= limit has a multiplier w_c for each class; a unit's importance is sum_c w_c m[c,u] / (1 -
    m[c,u]), and compensation uses w_c times as many images of the class. Starting at w = 1, w_c <- w_c exp(RATE (drop_c
    - limit)) for the classes beyond the limit, and the plan is solved again [our choice]. Drops are measured on
    training images that compensation does not use. A plan that is solved again depends on the masks alone: it uses
    their odds whatever ``thresholds.importance`` is, and ignores learned thresholds.

    Args:
        problem: The run's; its budget is unchanged.
        masks: (classes, units) by group key, on one scale.
        plan: The plan of the search; returned unchanged where the limit holds.
        limit: Percentage points of top-1.

    Raises:
        UsageError: If no such plan was found; the message gives the best one, whose multipliers a run stores to start
            from with another limit. Or if a class has too few images for the limit.
        XPrunerError: If the run directory cannot be written.
    """
    return _Guard(problem, masks, limit).run(plan)


def weighed(masks: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    """Returns the (units,) importance by group key, mean_c w_c m[c,u] / (1 - m[c,u]), for (classes,) multipliers."""
    return {key: (weights[:, None] * odds(m)).mean(0) for key, m in masks.items()}


class _Guard:
    """Compares the predictions of pruned models with the dense model's."""

    def __init__(self, problem: "Problem", masks: Mapping[str, Tensor], limit: float):
        self.problem, self.masks, self.limit, self.classes = problem, masks, limit, problem.num_classes
        self.images = unseen(problem, limit)
        self.dense, self.labels = self._predictions(problem.model)

    def run(self, plan: Plan) -> Guarded:
        """Reweights the classes until the limit holds."""
        best = newest = first = self._measured(plan, torch.ones(self.classes))
        earlier = self._earlier()
        for step in range(STEPS):
            if best.worst <= self.limit:
                break
            weights = reweighted(newest.weights, newest.drops, self.limit)
            newest = self._reached(earlier if step == 0 and earlier is not None else weights)
            best = min(best, newest, key=lambda found: found.worst)
        if best.worst > self.limit:
            if self._kept is not None:
                write_text(self._kept, json.dumps(best.weights.tolist()))
            raise UsageError(self._failure(best))
        return Guarded(best.plan, self._figures(first, best))

    @property
    def _kept(self) -> Path | None:
        """File of the best multipliers if the limit did not hold; they hold the limit that the error names."""
        return self.problem.state_dir / "guard.json" if self.problem.state_dir else None

    def _earlier(self) -> Tensor | None:
        if self._kept is None or not self._kept.exists():
            return None
        with reading(self._kept, "delete it, and the same command searches from scratch"):
            weights = typed(list[float], json.loads(self._kept.read_text(encoding="utf-8")))
            if len(weights) != self.classes:
                raise ValueError(f"it has {len(weights)} weights for {self.classes} classes")
            return torch.tensor(weights)

    def _figures(self, first: _Measured, best: _Measured) -> GuardFigures:
        asked = self.problem.budget.share(self.problem.units)
        larger = [asked * times for times in LARGER] if best is not first else []
        return GuardFigures(
            limit=self.limit,
            largest=best.worst,
            drops=[None if math.isnan(drop) else drop for drop in best.drops.tolist()],
            weights=best.weights.tolist(),
            images=len(self.labels),
            price=best.overall - first.overall,
            largest_without=first.worst,
            budget=asked,
            budget_without=self._least(larger, torch.ones(self.classes)),
        )

    def _least(self, shares: list[float], weights: Tensor) -> float | None:
        """Returns the first of ascending budgets at which these multipliers hold the limit."""
        for share in shares:
            plan = self._solved(weights, replace(self.problem.budget, amount=min(share, 1.0)))
            if self._measured(plan, weights).worst <= self.limit:
                return min(share, 1.0)
        return None

    def _measured(self, plan: Plan, weights: Tensor) -> _Measured:
        lost = self._lost(plan, weights)
        drops = 100 * class_means(lost, self.labels, self.classes)
        found = _Measured(plan, weights, drops, 100 * lost.mean().item())
        share = plan.share(self.problem.budget.resource)
        log.info(
            "guard: at %.2f of the dense model the largest drop of a class is %.2f points, allowed are %.2f",
            share, found.worst, self.limit,
        )  # fmt: skip
        return found

    def _reached(self, weights: Tensor) -> _Measured:
        """Returns what the plan of these multipliers loses at the requested budget."""
        return self._measured(self._solved(weights, self.problem.budget), weights)

    def _solved(self, weights: Tensor, budget: Budget) -> Plan:
        return plan_from_scores(self.problem.units, weighed(self.masks, weights), budget, "xpruner, guarded")

    def _lost(self, plan: Plan, weights: Tensor) -> Tensor:
        """Returns for each image 1 where only the dense model is correct, -1 where only the pruned one is, else 0."""
        problem, config = self.problem, self.problem.config
        images = weighed_calibration(weights, problem.train, problem.calibration, self.limit, config.data)
        model = compensate(
            apply(problem.model, plan), problem.model, plan, images, config.compensate, precision=config.precision
        )
        predicted, _ = self._predictions(model)
        return (self.dense == self.labels).double() - (predicted == self.labels).double()

    def _predictions(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        config = self.problem.config
        return predict(
            model, self.images, batch_size=config.data.batch_size, workers=config.data.workers,
            precision=config.precision,
        )  # fmt: skip

    def _failure(self, best: _Measured) -> str:
        """Returns the message: the limit that the requested budget can hold, and the least larger budget tried that
        holds this one."""
        asked = self.problem.budget.share(self.problem.units)
        remedy = f"set max_class_drop to {math.ceil(10 * best.worst) / 10:g} or more"
        held = self._least(torch.linspace(asked, 1.0, 6)[1:-1].tolist(), best.weights)
        if held is not None:
            remedy += f", or the budget to {held:.2f} of the dense model, where it holds"
        return (
            f"No plan was found at {asked:.2f} of the dense model's {self.problem.budget.resource} under which every "
            f"class loses at most {self.limit:g} points before training; {remedy}."
        )


def reweighted(weights: Tensor, drops: Tensor, limit: float) -> Tensor:
    """Returns the multipliers after one step of ascent, with a mean of 1; classes within the limit keep theirs."""
    beyond = (drops - limit).nan_to_num(0.0).clamp(min=0).to(weights)
    raised = weights * torch.exp(RATE * beyond)
    return raised / raised.mean()
