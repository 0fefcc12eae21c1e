"""A model for chosen classes: from masks that are learned already, without what none of these classes needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from xpruner.calibration.moments import Batches
from xpruner.compensation.fit import compensate
from xpruner.data import calibration_batches
from xpruner.data.class_names import unique_names
from xpruner.data.subset import ImagesOf
from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs, count_params
from xpruner.methods import Problem, find_method
from xpruner.models.checkpoint import read_structure, save
from xpruner.models.classifier import keep_classes
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.run.finished import BATCH, FinishedRun
from xpruner.surgery import apply
from xpruner.training import evaluate, finetune
from xpruner.training.features import kept_stream
from xpruner.units import find_units

ROUNDS = 2
"""How often the network is looked at anew for the chosen classes."""
IMAGES = 4096
"""To compensate on, if there are as many of the chosen classes; fewer leave a part of what can be made up for."""


@dataclass(frozen=True)
class Specialised:
    """A model for some of a run's classes.

    Attributes:
        model: Its outputs are the chosen classes in the order in which they were chosen; in eval mode.
        plan: Which units of the dense model stayed.
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

    The plan is that of :func:`plan_for`. The classifier keeps the chosen outputs, and the consumers of what went are
    compensated on training images of these classes.

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
    """Returns which units of the dense model stay for some of a run's classes [our choice].

    First a unit counts what the rows of its mask for the chosen classes say. From there on the network that is left,
    with the chosen outputs alone, is looked at, cut and compensated anew as in the run, on training images of these
    classes; the budget falls geometrically. What tells the chosen classes from others then counts no longer.

    Args:
        run: A run with masks.
        labels: The chosen classes.
        budget: What the model may cost.
        rounds: How often the network is looked at anew; with 0 the masks decide alone.

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
        plan = _looked_at_anew(run, labels, plan, replace(asked, amount=total * share), rounds).after(plan)
    return Plan.of(run.units, plan.keep, "xpruner, specialised", asked)


def _looked_at_anew(run: FinishedRun, labels: Sequence[int], plan: Plan, budget: Budget, rounds: int) -> Plan:
    """Returns what the run's own search cuts further from what a plan leaves, in the numbering of what is left."""
    images = calibration(run, labels)
    model = compensated(run, keep_classes(run.dense, labels), plan, images)
    kinds = list(dict.fromkeys(group.kind for group in run.units))
    problem = Problem(
        model=model,
        units=find_units(model, kinds, run.units.input_size),
        train=ImagesOf(run.data.train, labels),
        calibration=images,
        num_classes=len(labels),
        budget=budget,
        config=replace(run.config, rounds=rounds, max_class_drop=None),
    )
    return find_method("xpruner")(problem).plan


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
    config = run.config
    dense = keep_classes(run.dense, labels)
    test = ImagesOf(run.images, labels)

    def figures(model: nn.Module) -> dict[str, float]:
        top1 = evaluate(model, test, batch_size=BATCH, workers=config.data.workers, precision=config.precision)
        return {"top1": top1, "macs": count_macs(model, run.units.input_size), "params": count_params(model)}

    metrics = {"dense": figures(dense), "cut": figures(apply(dense, plan))}
    model = compensated(run, dense, plan, calibration(run, labels))
    metrics["compensated"] = figures(model)
    if steps:
        model = finetune(
            model, dense, ImagesOf(run.data.train, labels), replace(config.finetune, steps=steps),
            batch_size=config.data.batch_size, workers=config.data.workers, seed=config.seed,
            precision=config.precision, stream=kept_stream(run.dense, plan),
        )  # fmt: skip
        metrics["finetuned"] = figures(model)
    return Specialised(model.eval(), plan, [run.class_names[label] for label in labels], metrics)


def calibration(run: FinishedRun, labels: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Returns training images of some classes in batches, without augmentation."""
    config = run.config.data
    images = ImagesOf(run.data.train.plain(), labels, max(IMAGES, config.calibration_size))
    return calibration_batches(images, config.batch_size, config.workers)


def compensated(run: FinishedRun, dense: nn.Module, plan: Plan, images: Batches) -> nn.Module:
    """Returns a dense model cut by a plan and compensated block by block, whatever the run did."""
    how = replace(run.config.compensate, mode="sequential")
    return compensate(apply(dense, plan), dense, plan, images, how, precision=run.config.precision)


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
