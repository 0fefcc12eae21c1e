"""Stage 2: learn layer-wise thresholds under the budget, and read the plan off them."""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import Dataset

from xpruner.calibration.moments import Moments
from xpruner.config import ThresholdConfig
from xpruner.config.checks import check
from xpruner.masks.class_masks import ClassMasks
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.runtime.devices import autocast
from xpruner.runtime.modes import frozen
from xpruner.runtime.outputs import logits_of
from xpruner.thresholds.effective_weights import EffectiveWeights
from xpruner.thresholds.operation import (
    AugmentedLagrangian,
    SquaredHinge,
    Thresholds,
    expected_cost,
    project,
    slope,
    standardised,
    warm_target,
)
from xpruner.training.losses import distillation_loss
from xpruner.training.options import LoopOptions
from xpruner.training.search import Loop, learn
from xpruner.units import Units
from xpruner.units.gates import gating

log = logging.getLogger("xpruner")

FAR = 0.1
"""From the budget, as a share of the dense cost: what a search is warned of."""


def search_thresholds(
    model: nn.Module,
    masks: ClassMasks,
    budget: Budget,
    train: Dataset,
    config: ThresholdConfig,
    options: LoopOptions,
    *,
    moments: Mapping[str, Moments] | None = None,
) -> Plan:
    """Learns one threshold a group under the budget; the weights do not change, and no label gates anything.

    Args:
        model: The model to prune.
        masks: Learned masks; refined in place when ``mask_lr`` is positive.
        budget: The cost to meet.
        train: Pairs of an image and a class index.
        config: The pruning operation, the constraint and the schedule.
        options: Batches, seed, precision and state.
        moments: Of the consumers' inputs, needed for ``compensated``.

    Returns:
        The plan: the units above their layer's threshold, after one common offset of all thresholds so that the
        budget is met from below.

    Raises:
        UsageError: If a value is out of range or the budget cannot be reached.
        XPrunerError: If the loss is not finite.
    """
    check(config, "thresholds.")
    units = masks.units
    target = budget.target(units) / units.total(budget.resource)
    if config.mode == "global_rank":
        return plan_from_scores(units, masks.importance("abs_sum"), budget, "xpruner, global rank")
    search = _Search(model, masks, budget.resource, target, config, moments, options.precision)
    with frozen(search.model):
        same = {"thresholds": asdict(config), "budget": asdict(budget)}
        loop = Loop("learning thresholds", search.learned, search.optimizer(), search.loss, config.steps, same)
        learn(loop, train, options)
    with torch.no_grad():
        search.check_end()
        return plan_from_scores(units, search.thresholds.margins(search.importance()), budget, "xpruner")


class _Search:
    """The loss of a step, and all that it needs: what is learned lies in ``learned``, so that a search can resume."""

    def __init__(
        self,
        model: nn.Module,
        masks: ClassMasks,
        resource: str,
        target: float,
        config: ThresholdConfig,
        moments: Mapping[str, Moments] | None,
        precision: str,
    ):
        self.masks, self.resource, self.target, self.config, self.precision = masks, resource, target, config, precision
        self.units = masks.units
        self.dense = model
        compensated = moments if config.compensated and config.steps else None
        self.effective = EffectiveWeights(model, self.units, compensated) if compensated else None
        self.model = self.effective.model if self.effective else model
        self.thresholds = Thresholds(self.units, self._start(), config.form)
        constraints = {"lagrangian": AugmentedLagrangian, "hinge": SquaredHinge, "projected": nn.Identity}
        self.constraint = constraints[config.constraint]()
        self.fitted = _FittedGates(self.units)
        parts = {
            "thresholds": self.thresholds, "masks": masks, "constraint": self.constraint, "fitted": self.fitted
        }  # fmt: skip
        self.learned = nn.ModuleDict(parts).to(next(model.parameters()).device)

    @property
    def opens(self) -> bool:
        """Whether it begins with an open network, instead of at the budget by one threshold for all."""
        return self.config.steps > 0 and self.config.constraint != "projected"

    def importance(self) -> dict[str, Tensor]:
        """Returns s (units,) of every group; where it begins open, in units of the layer's own spread."""
        importance = self.masks.importance(self.config.importance)
        return {key: standardised(s, self.config.form) for key, s in importance.items()} if self.opens else importance

    def _start(self) -> Tensor:
        if self.opens:
            return open_start(self.importance(), self.config)
        return torch.ones(len(self.units))

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam without weight decay, the thresholds and the masks each with their own rate."""
        groups = [{"params": list(self.thresholds.parameters()), "lr": self.config.lr}]
        if self.config.mask_lr:
            groups.append({"params": list(self.masks.parameters()), "lr": self.config.mask_lr})
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def loss(self, progress: float, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Returns the task loss of the gated network plus the price of the budget, and the figures to log."""
        n = slope(progress, self.config.slope_start, self.config.slope_end)
        target = warm_target(progress, self.target, self.config.warmup)
        importance = self.importance()
        if self.config.constraint == "projected":
            keep, hard = project(self.thresholds.margins(importance), n, self.units, target, self.resource)
        else:
            keep, hard = self.thresholds.keep(importance, n), {}
        if self.effective is not None:
            keep = {key: hard[key] + k - k.detach() for key, k in keep.items()}  # straight through
            self._refit(hard)
        task = self._task(self._logits(images, keep), images, labels)
        cost = expected_cost(keep, self.units, self.resource)
        figures = {"task": task.item(), "cost": cost.item(), "target": target, "slope": n}
        if self.config.constraint == "projected":
            return task, figures
        penalty = self.constraint(cost, target)
        self.constraint.ascend(cost.item(), target)
        return task + penalty, figures

    def check_end(self) -> None:
        """Warns where learning ended far from the budget, so that the common offset decides more than thresholds do."""
        if not self.opens:
            return
        keep = self.thresholds.keep(self.importance(), self.config.slope_end)
        cost = expected_cost(keep, self.units, self.resource).item()
        if abs(cost - self.target) > FAR:
            log.warning(
                "The thresholds ended at %.2f of the cost where %.2f was asked for; one offset common to all covers "
                "the rest. Give thresholds.steps more, or thresholds.lr another value.", cost, self.target,
            )  # fmt: skip

    def _refit(self, hard: Mapping[str, Tensor]) -> None:
        """Solves the compensation again every ``refit_every`` steps, and after a resume as it was solved last."""
        assert self.effective is not None
        if self.fitted.due(self.config.refit_every):
            self.fitted.keep(hard)
            self.effective.refit(hard)
        elif not self.effective.fitted:
            self.effective.refit(self.fitted.gates())

    def _logits(self, images: Tensor, keep: Mapping[str, Tensor]) -> Tensor:
        with autocast(self.precision, images.device):
            if self.effective is not None:
                return logits_of(functional_call(self.model, self.effective.weights(keep), images)).float()
            with gating(self.model, self.units, keep):
                return logits_of(self.model(images)).float()

    def _task(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        if not self.config.distill:
            return F.cross_entropy(logits, labels)
        with torch.no_grad(), autocast(self.precision, images.device):
            dense = logits_of(self.dense(images)).float()
        return distillation_loss(logits, dense)


class _FittedGates(nn.Module):
    """The hard gates for which the compensation was solved last, and how many steps were made, as buffers."""

    steps: Tensor
    kept: Tensor

    def __init__(self, units: Units):
        super().__init__()
        self.keys, self.sizes = [g.key for g in units], [g.size for g in units]
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("kept", torch.ones(sum(self.sizes)))

    def due(self, every: int) -> bool:
        """Counts a step; returns whether it is one of every ``every``, beginning with the first."""
        self.steps += 1
        return (self.steps.item() - 1) % every == 0

    def keep(self, gates: Mapping[str, Tensor]) -> None:
        """Remembers the gates (units,) of every group."""
        self.kept.copy_(torch.cat([gates[key] for key in self.keys]))

    def gates(self) -> dict[str, Tensor]:
        """Returns what was remembered."""
        return dict(zip(self.keys, self.kept.split(self.sizes), strict=True))


def open_start(importance: Mapping[str, Tensor], config: ThresholdConfig) -> Tensor:
    """Returns thresholds (groups,) just below nearly all importances of their layer, which keep 0.9 or more of a unit.

    Of their own layer: far below all of its importances the pruning operation is flat, and a layer's threshold would
    get a gradient neither from the loss nor from the budget [our choice].

    Args:
        importance: (units,) of every group.
        config: The form of the pruning operation, and its slope at the start.
    """
    low = torch.stack([s.detach().quantile(0.01) for s in importance.values()])
    if config.form == "power":
        return low.clamp(min=1e-6) * 9 ** (-1 / config.slope_start)
    return low - math.log(9) / config.slope_start
