"""A model for chosen classes: from masks that are learned already, without what none of these classes needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from xpruner.data.class_names import unique_names
from xpruner.errors import UsageError
from xpruner.methods import find_method
from xpruner.models.checkpoint import read_structure, save
from xpruner.models.classifier import keep_classes
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.run import stages
from xpruner.run.finished import FinishedRun
from xpruner.run.setup import Setup
from xpruner.units import find_units

ROUNDS = 2
"""Iterative rounds for the chosen classes: importance is re-estimated after each cut."""
IMAGES = 4096
"""To compensate on, if there are as many of the chosen classes; with fewer, compensation recovers less."""


@dataclass(frozen=True)
class Specialised:
    """A model for some of a run's classes.

    Attributes:
        model: Its outputs are the chosen classes in the order in which they were chosen; in eval mode.
        plan: Which units of the dense model were kept.
        class_names: Of the outputs.
        metrics: Of the stages ``dense`` (the dense model with these outputs alone), ``cut``, ``compensated`` and, after
            training, ``finetuned``: ``top1`` (0 to 1) among the chosen classes, ``macs`` and ``params``.
    """

    model: nn.Module
    plan: Plan
    class_names: list[str]
    metrics: dict[str, dict[str, float]]


def specialise(
    run: FinishedRun, labels: Sequence[int], budget: str | float | Budget, steps: int = 0, rounds: int = ROUNDS
) -> Specialised:
    """Builds a model for some of the classes of a finished run.

    The plan is that of :func:`plan_for`. The classifier keeps the chosen outputs, and the consumers of what was pruned
    are compensated on training images of these classes.

    Args:
        run: A run with masks.
        labels: The chosen classes, two at least and not all.
        budget: What the model may cost, as a share of the dense model or absolute.
        steps: Of fine-tuning by the run's recipe on images of these classes, with the dense model as the teacher.
        rounds: As for :func:`plan_for`.

    Raises:
        UsageError: If the classes cannot be chosen, the budget is out of reach, or the run has no masks.
        XPrunerError: If a file of the run is missing or damaged.
    """
    return build(run, labels, plan_for(run, labels, budget, rounds), steps)


def plan_for(run: FinishedRun, labels: Sequence[int], budget: str | float | Budget, rounds: int = ROUNDS) -> Plan:
    """Returns which units of the dense model are kept for some of a run's classes [our choice].

    First a unit's importance is that of the rows of its mask for the chosen classes. Then the network that is left,
    with the chosen outputs alone, is searched, cut and compensated in rounds as in the run, on training images of these
    classes; the budget falls geometrically. What separates the chosen classes from others no longer counts.

    Args:
        run: A run with masks.
        labels: The chosen classes.
        budget: What the model may cost.
        rounds: After each, importance is re-estimated; with 0 the masks decide alone.

    Raises:
        UsageError: If the classes cannot be chosen, the budget is out of reach, or the run has no masks.
        XPrunerError: If a file of the run is missing or damaged.
    """
    check_choice(labels, run.class_names)
    asked = Budget.parse(budget, run.config.round_to)
    total, share = run.units.total(asked.resource), asked.share(run.units)
    by_masks = replace(asked, amount=total * share ** (1 / (rounds + 1)))
    plan = plan_from_scores(run.units, run.importance_to(labels), by_masks)
    if rounds:
        plan = _searched_again(run, labels, plan, replace(asked, amount=total * share), rounds).after(plan)
    return Plan.of(run.units, plan.keep, "xpruner, specialised", asked)


def _searched_again(run: FinishedRun, labels: Sequence[int], plan: Plan, budget: Budget, rounds: int) -> Plan:
    """Returns what the run's own search cuts further from what a plan leaves, in the numbering of what is left."""
    setup = setup_for(run, labels)
    model = _compensated(setup, stages.cut(setup, plan), plan)
    kinds = list(dict.fromkeys(group.kind for group in run.units))
    left = setup.replaced(
        config=replace(run.config, rounds=rounds, max_class_drop=None), dense=model, budget=budget,
        units=find_units(model, kinds, run.units.input_size),
    )  # fmt: skip
    return find_method("xpruner")(left.problem()).plan


def build(run: FinishedRun, labels: Sequence[int], plan: Plan, steps: int = 0) -> Specialised:
    """Cuts, compensates and fine-tunes a run's dense model for some of its classes, whatever made the plan.

    Args:
        run: A finished run; its masks are not read.
        labels: The chosen classes.
        plan: Of the dense model's units.
        steps: Of fine-tuning.

    Raises:
        UsageError: If the model's classifier cannot be cut to classes, the plan was made for another model, or the
            run's images are not where they were.
        XPrunerError: If a file of the run is damaged, or a loss is not finite.
    """
    setup = setup_for(run, labels, steps)
    cut = stages.cut(setup, plan)
    metrics = {"dense": stages.figures(setup, setup.dense), "cut": stages.figures(setup, cut)}
    model = _compensated(setup, cut, plan)
    metrics["compensated"] = stages.figures(setup, model)
    if steps:
        model = stages.finetuned(setup, model, plan)
        metrics["finetuned"] = stages.figures(setup, model)
    return Specialised(model.eval(), plan, [run.class_names[label] for label in labels], metrics)


def setup_for(run: FinishedRun, labels: Sequence[int], steps: int = 0, images: int | None = None) -> Setup:
    """Returns what the stages work on for some of a run's classes: their images, and the dense model's own outputs.

    Args:
        run: A finished run.
        labels: The chosen classes.
        steps: Of fine-tuning.
        images: For calibration, at most; :data:`IMAGES` or the run's, whichever are more, when absent.

    Raises:
        UsageError: If the model's classifier cannot be cut to classes, or the run's images are not where they were.
    """
    config = replace(
        run.config,
        max_class_drop=None,
        compensate=replace(run.config.compensate, mode="sequential"),
        finetune=replace(run.config.finetune, steps=steps),
    )
    most = max(IMAGES, config.data.calibration_size) if images is None else images
    data = run.data.of_classes(labels, most)
    return Setup(config, keep_classes(run.dense, labels), None, data, run.units, run.budget)


def _compensated(setup: Setup, model: nn.Module, plan: Plan) -> nn.Module:
    better = stages.compensated(setup, model, plan)
    return better if stages.is_better(setup, better, model) else model


def save_specialised(run: FinishedRun, found: Specialised, folder: Path) -> None:
    """Writes the model as :func:`xpruner.save` does, with the names of its classes.

    Raises:
        XPrunerError: If the disk is full or the folder cannot be written.
    """
    structure = read_structure(run.folder / "dense")
    kwargs = {**structure.kwargs, "num_classes": len(found.class_names)} if structure.library == "timm" else None
    save(found.model, folder, kwargs=kwargs, input_spec=structure.input, class_names=found.class_names)


def check_choice(labels: Sequence[int], class_names: Sequence[str]) -> None:
    """Raises UsageError unless two or more classes are chosen, each once, and not all."""
    if len(set(labels)) != len(labels):
        names = unique_names(class_names)
        raise UsageError(f"The classes {', '.join(names[n] for n in labels)} are not all different; name each once.")
    if not 2 <= len(labels) < len(class_names):
        raise UsageError(
            f"{len(labels)} of {len(class_names)} classes are chosen; choose two at least and not all: "
            "`xpruner prune` makes a model for all."
        )
