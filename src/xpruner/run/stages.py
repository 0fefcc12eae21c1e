"""The stages of a run, for whoever runs them: rotate, search, cut, compensate, fine-tune, and measure after each."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xpruner.calibration.rotate_heads import rotate_heads
from xpruner.compensation.fit import compensate
from xpruner.compensation.heal import heal
from xpruner.errors import XPrunerError
from xpruner.measure.macs import count_macs, count_params
from xpruner.methods import Outcome, kinds_for
from xpruner.methods.xpruner.guard_images import guarded_calibration
from xpruner.plan.plan import Plan
from xpruner.run.setup import Setup
from xpruner.surgery import apply
from xpruner.training import finetune, predict
from xpruner.training.features import kept_stream
from xpruner.training.options import LoopOptions, OnStep

TOLERANCE = 0.01
"""How far, as a share of the budget, a model's cost by torch's counter may lie from it."""
BATCH = 128
"""Images a step of a forward pass, if a run asks for no larger ones."""


def rotated(setup: Setup) -> Setup:
    """Returns the setup with the dense model as its method takes it: its heads rotated, or as it is.

    Rotating changes no output, only which dimensions can be pruned together, see
    :func:`xpruner.calibration.rotate_heads.rotate_heads`.
    """
    config = setup.config
    wanted = setup.method.rotates if config.rotate is None else config.rotate
    if not wanted or {"qk", "v"}.isdisjoint(kinds_for(config, setup.dense)):
        return setup
    return setup.replaced(dense=rotate_heads(copy.deepcopy(setup.dense), setup.calibration, config.precision))


def search(setup: Setup, state_dir: Path | None = None, on_step: OnStep | None = None) -> Outcome:
    """Returns what the method finds.

    Args:
        setup: What it works on.
        state_dir: Where it keeps what it needs to go on after a stop.
        on_step: Called after every update.

    Raises:
        UsageError: If the method cannot solve the problem.
        XPrunerError: If the search fails.
    """
    return setup.method(setup.problem(state_dir, on_step))


def cut(setup: Setup, plan: Plan) -> nn.Module:
    """Returns the dense model without the units that a plan leaves out."""
    return apply(setup.dense, plan)


def compensated(
    setup: Setup,
    model: nn.Module,
    plan: Plan,
    search_figures: Mapping[str, Any] | None = None,
    state_dir: Path | None = None,
) -> nn.Module:
    """Returns a pruned model compensated, or healed where the run asks for that.

    Args:
        setup: What the run works on.
        model: As cut, or as the search left it; it stays as it is.
        plan: Which units were kept.
        search_figures: What the search logged; its guard chose the images to compensate on.
        state_dir: Where healing keeps what it needs to go on after a stop.

    Raises:
        XPrunerError: If the statistics are not finite.
    """
    config = setup.config
    images = guarded_calibration(search_figures or {}, setup.data.train, setup.calibration, config)
    work: dict[str, Any] = {"config": config.compensate, "precision": config.precision}
    if config.compensate.mode == "heal":
        return heal(copy.deepcopy(model), setup.dense, plan, images, **work, seed=config.seed, state_dir=state_dir)
    return compensate(copy.deepcopy(model), setup.dense, plan, images, **work)


def is_better(setup: Setup, compensated: nn.Module, before: nn.Module) -> bool:
    """Returns whether fine-tuning should start from the compensated model and not from the one before.

    It should, unless the compensated one is right about fewer training images. Where classes are guarded it always
    should, as the guard measured the compensated model.
    """
    unchanged = setup.config.compensate.mode == "none"
    guarded = setup.config.max_class_drop is not None
    return unchanged or guarded or _correct(setup, compensated) >= _correct(setup, before)


def finetuned(
    setup: Setup, model: nn.Module, plan: Plan, state_dir: Path | None = None, on_step: OnStep | None = None
) -> nn.Module:
    """Returns a pruned model fine-tuned, in place.

    Args:
        setup: What the run works on.
        model: What to start from.
        plan: Which units were kept.
        state_dir: Where the state is kept.
        on_step: Called after every update.

    Raises:
        XPrunerError: If the loss is not finite, or the disk is full.
    """
    return finetune(
        model,
        setup.teacher,
        setup.data.train,
        setup.config.finetune,
        LoopOptions.of(setup.config, state_dir, on_step),
        stream=kept_stream(setup.dense, plan),
    )


def predictions(setup: Setup, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns the class that a model predicts for each measured image, and the labels, both (images,)."""
    return predict(model, setup.data.measured, **_forward(setup))


def figures(setup: Setup, model: nn.Module, dense_predictions: Tensor | None = None) -> dict[str, Any]:
    """Returns what a model comes to: ``top1`` from 0 to 1, label-free, and ``macs`` and ``params`` by torch's counter.

    Args:
        setup: Whose measured images are taken.
        model: A classifier of the same classes.
        dense_predictions: (images,) classes; with them also the ``agreement`` with the dense model, from 0 to 1.
    """
    return figures_of(setup, model, *predictions(setup, model), dense_predictions)


def figures_of(
    setup: Setup, model: nn.Module, predicted: Tensor, labels: Tensor, dense_predictions: Tensor | None = None
) -> dict[str, Any]:
    """Returns the :func:`figures` of a model whose :func:`predictions` are known."""
    agreement = {} if dense_predictions is None else {"agreement": _share(predicted == dense_predictions)}
    macs = count_macs(model, setup.units.input_size)
    return {"top1": _share(predicted == labels), **agreement, "macs": macs, "params": count_params(model)}


def budget_error(setup: Setup, found: dict[str, Any]) -> float:
    """Returns how far a model's cost lies from the budget, as a share of it; negative below it.

    Args:
        setup: Whose budget is meant.
        found: The model's :func:`figures`.

    Raises:
        XPrunerError: If the cost is more than :data:`TOLERANCE` above the budget.
    """
    asked, reached = setup.budget.target(setup.units), found[setup.budget.resource]
    error = reached / asked - 1
    if error > TOLERANCE:
        raise XPrunerError(
            f"{setup.config.method!r} made a model of {reached:,.0f} {setup.budget.resource} where {asked:,.0f} were "
            "asked for; choose another method or budget."
        )
    return error


def _correct(setup: Setup, model: nn.Module) -> int:
    """Counts what a model gets right of the training images behind those of calibration, or of the latter alone."""
    seen = len(setup.data.calibration)
    plain = setup.data.train.plain(2 * seen)
    images = plain.only(range(seen, len(plain))).readable() if len(plain) > seen else plain
    predicted, labels = predict(model, images, **_forward(setup))
    return int((predicted == labels).sum())


def _forward(setup: Setup) -> dict[str, Any]:
    config = setup.config
    return {
        "batch_size": max(config.data.batch_size, BATCH),
        "workers": config.data.workers,
        "precision": config.precision,
    }


def _share(right: Tensor) -> float:
    return right.sum().item() / len(right)
