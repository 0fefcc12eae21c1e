"""What the page computes from a finished run: plans for other budgets and classes, and models made by them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from xpruner.config import CompensateConfig
from xpruner.data import InputSpec
from xpruner.data.image import read_image
from xpruner.errors import UsageError
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.run import stages
from xpruner.run.finished import FinishedRun
from xpruner.run.specialise import check_choice, setup_for
from xpruner.runtime.devices import accelerator

STEP = 0.01
"""Of the budgets that can be chosen, as a share of the dense model's cost."""
IMAGES = 64
"""Training images that a model is compensated on by default."""


@dataclass(frozen=True)
class Choice:
    """The budget and the classes that are chosen in the page.

    Attributes:
        share: The budget, as a share of the dense model's MACs or parameters, whichever the run's budget is of.
        labels: The chosen classes, ascending; none for all of them.
    """

    share: float
    labels: tuple[int, ...] = ()

    @classmethod
    def of(cls, run: FinishedRun, share: float, labels: Sequence[int]) -> "Choice":
        """Returns the choice; all classes together are as none.

        Raises:
            UsageError: If one class alone is chosen, or one twice.
        """
        names = run.data.class_names
        if not labels or set(labels) == set(range(len(names))):
            return cls(share)
        check_choice(labels, names)
        return cls(share, tuple(sorted(labels)))


@dataclass(frozen=True)
class Models:
    """Two models and their classes.

    Attributes:
        dense: The dense model, with the chosen outputs alone.
        pruned: The pruned one, with the same outputs; in eval mode.
        class_names: Of the outputs.
    """

    dense: nn.Module
    pruned: nn.Module
    class_names: list[str]


def is_own(run: FinishedRun, choice: Choice) -> bool:
    """Returns whether the run itself made these models: at its budget, within half a :data:`STEP`, and all classes.

    Raises:
        UsageError: If the run's budget cannot be met by its dense model.
    """
    return not choice.labels and abs(choice.share - run.budget.amount) < STEP / 2


def plan_of(run: FinishedRun, choice: Choice) -> Plan:
    """Returns the run's own plan, or another by the importance of units in the run and the solver that it used.

    Where classes are chosen, their rows of the masks alone count, without the weights that a guard gave the classes;
    importance is not re-estimated. Thresholds that were learned for the run's budget are no part of it.

    Raises:
        UsageError: If the budget cannot be met, or the run has no masks.
        XPrunerError: If a file of the run is missing or damaged.
    """
    if is_own(run, choice):
        return run.plan
    scores = run.importance_to(choice.labels) if choice.labels else run.importance
    return plan_from_scores(run.units, scores, replace(run.budget, amount=choice.share), "xpruner, explored")


def kept_units(plan: Plan) -> dict[str, dict[str, tuple[int, int]]]:
    """Returns by module and kind how many units are kept, and of how many."""
    table: dict[str, dict[str, tuple[int, int]]] = {}
    for key, indices in plan.keep.items():
        module, _, kind = key.rpartition(":")
        table.setdefault(module, {})[kind] = (len(indices), plan.sizes[key])
    return table


def models_of(run: FinishedRun, choice: Choice, images: int = IMAGES) -> Models:
    """Returns the run's own models, or makes them by the plan, in seconds.

    The pruned model is cut from the dense one, of which the classifier keeps the chosen outputs, and compensated on
    training images of the chosen classes; it is not fine-tuned. The compensation is ``affine``: it needs one pass
    through the dense model, where the ``sequential`` one of a run needs many.

    Args:
        run: A finished run.
        choice: Budget and classes.
        images: To compensate on; 0 leaves the model as it is cut.

    Raises:
        UsageError: If the budget cannot be met, or the run has no masks.
        XPrunerError: If a file of the run is missing or damaged.
    """
    device, names = accelerator().device, run.data.class_names
    if is_own(run, choice):
        return Models(run.dense.to(device), run.pruned.to(device), names)
    plan, labels = plan_of(run, choice), choice.labels or range(len(names))
    setup = setup_for(run, labels, images=images)
    how = CompensateConfig("affine", run.config.compensate.ridge)
    setup = setup.replaced(config=replace(setup.config, compensate=how), dense=setup.dense.to(device))
    pruned = stages.cut(setup, plan)
    if images:
        pruned = stages.compensated(setup, pruned, plan)
    return Models(setup.dense, pruned.eval(), [names[label] for label in labels])


def origin(run: FinishedRun, choice: Choice, images: int = IMAGES) -> str:
    """Returns in words which model the pruned one is; its arguments and errors are those of :func:`models_of`."""
    if is_own(run, choice):
        return "The pruned model is the run's own."
    care = f" and compensated on {images} training images, but not" if images else ", not compensated and not"
    return (
        f"The pruned model is made here from the learned masks: cut from the dense one{care} trained. "
        "The command below takes more time over it."
    )


def command(run: FinishedRun, choice: Choice) -> str:
    """Returns the command that makes the model for good, or an empty text where the run has made it.

    Raises:
        UsageError: If the run's budget cannot be met by its dense model.
    """
    if is_own(run, choice):
        return ""
    share, resource = f"{choice.share:g}", run.budget.resource
    budget = share if resource == "macs" else f"{resource}:{share}"
    if not choice.labels:
        made = ["prune", "--config", str(run.folder / "config.yaml")]
        return shlex.join(["xpruner", *made, "--budget", budget, "--output", f"{run.folder}-{share}"])
    names = run.data.class_names
    classes = ",".join(str(label) if "," in names[label] else names[label] for label in choice.labels)
    return shlex.join(["xpruner", "specialise", str(run.folder), "--classes", classes, "--budget", budget])


def image_of(run: FinishedRun, upload: str | None, number: int | None) -> tuple[Tensor, str]:
    """Returns an image as the models take it, (3, height, width), and what it is.

    Args:
        run: A finished run.
        upload: Path of an image file; it takes precedence over the number.
        number: Of one of the run's images.

    Raises:
        UsageError: If the file cannot be read, or there is no such image.
    """
    if upload is not None:
        name = upload.replace("\\", "/").rpartition("/")[2]
        return read_image(upload, InputSpec.of(run.dense), name), name
    last = len(run.images) - 1
    if number is None or not 0 <= number <= last:
        given = "missing" if number is None else number
        raise UsageError(f"The number of the image is {given}; give one from 0 to {last}, or upload an image.")
    pixels, label = run.images[number]
    return pixels, f"Image {number} of the run, class {run.data.class_names[label]}"
