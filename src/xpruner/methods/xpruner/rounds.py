"""X-Pruner: class-wise masks, learned layer-wise thresholds, and iterative rounds that re-estimate importance."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.calibration.moments import Moments, consumer_moments
from xpruner.compensation.fit import compensate
from xpruner.config import RunConfig
from xpruner.masks.class_masks import ClassMasks, rescaled
from xpruner.masks.learning import leak, learn_masks
from xpruner.masks.signals import NONE, SignalRequest, find_signal, takes_moments
from xpruner.methods._outcome_files import read_outcome, write_outcome
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._weight_search import check_precision
from xpruner.methods.xpruner.guard import guarded
from xpruner.methods.xpruner.guard_images import unseen
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.runtime.modes import evaluating
from xpruner.surgery import apply
from xpruner.thresholds.search import search_thresholds
from xpruner.training.options import LoopOptions
from xpruner.units import DEFAULT_KINDS, Units, find_units

log = logging.getLogger("xpruner")

LEVEL = "evidence per cost at a mask of one half"


def check_search(problem: Problem) -> None:
    """Raises UsageError for unknown evidence, or if masks or thresholds are to be learned in fp16."""
    config = problem.config
    if config.masks.evidence != NONE:
        find_signal(config.masks.evidence)
    if config.masks.steps or config.thresholds.steps:
        check_precision(config.precision, "masks and thresholds")


KINDS = ("head", "hidden", "qk", "v")


def kinds_under(config: RunConfig) -> tuple[str, ...]:
    """Returns the kinds that it can prune: with compensated gradient steps only heads and hidden units."""
    return DEFAULT_KINDS if config.thresholds.steps > 0 and config.thresholds.compensated else KINDS


@register_method(
    "xpruner", KINDS, rotates=True, learns_masks=True, guards_classes=True, kinds_under=kinds_under,
    reads=("preset", "rounds", "max_class_drop", "masks.", "thresholds."), check=check_search,
)  # fmt: skip
def search(problem: Problem) -> Outcome:
    """Learns masks and thresholds and returns the plan, in one round or several.

    With several rounds the budget falls geometrically. Each round learns masks and thresholds on the network that
    earlier rounds cut and compensated, so that importance is re-estimated after each cut: of two redundant units both
    look dispensable until one is pruned [our choice]. The plan is in the numbering of the dense model. A unit's mask is
    the last one learned for it, rescaled to the last round, so that all can be compared.

    Raises:
        UsageError: If the classes are to be guarded and there are too few images, or no plan holds the limit.
    """
    limit = problem.config.max_class_drop
    if limit is not None:
        unseen(problem, limit)  # fail on too few images before anything is computed
    plan: Plan | None = None
    level = 1.0
    table: dict[str, Tensor] = {}
    dense_masks: dict[str, Tensor] = {}
    figures: dict[str, Any] = {}
    budgets = round_budgets(problem, problem.config.rounds)
    for number, budget in enumerate(budgets, 1):
        folder = problem.state_dir / f"round-{number}" if problem.state_dir else None
        found = read_outcome(folder) if folder else None
        if found is None:
            log.info("round %d of %d, down to %.4g %s", number, len(budgets), budget.amount, budget.resource)
            found = _round(problem, _left_by(problem, plan), budget, folder, number)
            if folder:
                write_outcome(folder, found)
        of_round = dict(found.figures)
        before, level = level, of_round.pop(LEVEL)
        earlier = {key: rescaled(m, before / level) for key, m in table.items()}
        table = _in_dense_numbering(earlier, found.masks, plan)
        if plan is None:  # the first round alone sees the dense model
            figures, dense_masks = of_round, found.masks
        plan = found.plan if plan is None else found.plan.after(plan)
    assert plan is not None
    plan = Plan.of(problem.units, plan.keep, "xpruner", problem.budget)
    if limit is None:
        return Outcome(plan, table, figures, dense_masks=dense_masks)
    held = guarded(problem, table, plan, limit)
    figures["guard"] = asdict(held.figures)
    return Outcome(held.plan, table, figures, dense_masks=dense_masks)


def _left_by(problem: Problem, plan: Plan | None) -> nn.Module:
    """Returns the network as the rounds so far cut and compensated it."""
    if plan is None:
        return problem.model
    config = problem.config
    return compensate(
        apply(problem.model, plan), problem.model, plan, problem.calibration, config.compensate,
        precision=config.precision,
    )  # fmt: skip


def round_budgets(problem: Problem, rounds: int) -> list[Budget]:
    """Returns the budget of each round as an absolute cost, falling geometrically to the requested one."""
    resource = problem.budget.resource
    dense, share = problem.units.total(resource), problem.budget.share(problem.units)
    amounts = [dense * share ** (r / rounds) for r in range(1, rounds + 1)]
    return [replace(problem.budget, amount=amount) for amount in amounts]


def _round(problem: Problem, model: nn.Module, budget: Budget, folder: Path | None, number: int) -> Outcome:
    config = problem.config
    kinds = list(dict.fromkeys(group.kind for group in problem.units))
    units = find_units(model, kinds, problem.units.input_size)
    masks = ClassMasks(units, problem.num_classes, config.masks.rank, config.masks.init, config.seed + number)
    masks.to(next(model.parameters()).device)
    options = replace(LoopOptions.of(config, on_step=problem.on_step), seed=config.seed + number)
    moments = _moments(problem, model, units)
    level = 1.0
    if config.masks.evidence != NONE:
        request = SignalRequest(
            model, units, problem.calibration, problem.num_classes, moments, config.masks, config.precision
        )
        evidence = find_signal(_signal(config))(request)
        level = masks.start_from(evidence, _removed_share(units, budget), budget.resource)
    learn_masks(model, masks, problem.train, config.masks, _at(options, folder, "masks"))
    at_thresholds = _at(options, folder, "thresholds")
    plan = search_thresholds(model, masks, budget, problem.train, config.thresholds, at_thresholds, moments=moments)
    figures = leak(model, masks, problem.calibration, precision=config.precision) if number == 1 else {}
    return Outcome(plan, masks.tensors(), {**figures, LEVEL: level})


def _moments(problem: Problem, model: nn.Module, units: Units) -> dict[str, Moments]:
    config = problem.config
    if not takes_moments(_signal(config)) and not (config.thresholds.compensated and config.thresholds.steps):
        return {}
    with evaluating(model):
        return consumer_moments(model, units, problem.calibration, config.precision)


def _signal(config: RunConfig) -> str:
    """Returns which evidence to use: without compensation, all of a removed unit is lost, as ``taylor`` measures."""
    if config.masks.evidence == "at_removal" and config.compensate.mode == "none":
        return "taylor"
    return config.masks.evidence


def _removed_share(units: Units, budget: Budget) -> float:
    """Returns the approximate share of the prunable cost that is removed, so that masks start at one half near the
    cut."""
    total = units.total(budget.resource)
    prunable = total - units.cost({group.key: [] for group in units}, budget.resource)
    return min(0.95, max(0.05, (total - budget.target(units)) / prunable))


def _at(options: LoopOptions, folder: Path | None, name: str) -> LoopOptions:
    return replace(options, state_dir=folder / name if folder else None)


def _in_dense_numbering(table: dict[str, Tensor], masks: dict[str, Tensor], plan: Plan | None) -> dict[str, Tensor]:
    """Writes the masks of the kept units into the table of all units; the others keep their last masks."""
    merged = dict(table)
    for key, mask in masks.items():
        kept = plan.keep.get(key) if plan is not None else None
        if kept is None:
            merged[key] = mask
        else:
            merged[key] = table[key].clone()
            merged[key][:, torch.tensor(kept)] = mask
    return merged
