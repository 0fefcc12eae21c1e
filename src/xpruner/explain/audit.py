"""The class audit: which classes pay for what was pruned, and with which images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from scipy.stats import binomtest
from torch import Tensor

from xpruner.data.class_names import unique_names
from xpruner.errors import UsageError
from xpruner.methods.xpruner.guard import GuardFigures
from xpruner.run.finished import FinishedRun

CONFIDENCE = 0.95
NORMAL = 1.959964
"""Of the normal distribution, the quantile of such an interval."""


@dataclass(frozen=True)
class Proportion:
    """A share of images with its 95 % interval (Wilson 1927), all from 0 to 1."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, images: int) -> "Proportion":
        """Returns the share ``count`` of ``images``, of which there is one at least."""
        interval = binomtest(count, images).proportion_ci(CONFIDENCE, method="wilson")
        return cls(count / images, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Drop:
    """Percentage points of top-1 that were lost, with a 95 % interval.

    The interval is that of Agresti and Min (2005, section 3) for matched proportions: half an image is added to each of
    the four outcomes.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, lost: int, gained: int, images: int) -> "Drop":
        """Returns the drop of a model that gets ``lost`` of the images newly wrong and ``gained`` newly right."""
        n = images + 2
        middle = (lost - gained) / n
        half = NORMAL * ((lost + gained + 1) - (lost - gained) ** 2 / n) ** 0.5 / n
        return cls(100 * (lost - gained) / images, 100 * max(middle - half, -1), 100 * min(middle + half, 1))


@dataclass(frozen=True)
class ClassAudit:
    """What pruning did to one class, or to all of them.

    Attributes:
        name: Of the class.
        images: How many of its images were used; one at least.
        dense: Proportion of them that the dense model gets right.
        pruned: Proportion of them that the pruned model gets right.
        lost: Numbers of the images that the dense model gets right and the pruned one wrong.
        gained: Numbers of the images that the pruned model gets right and the dense one wrong.
        p_value: Of a loss and a gain being equally likely, two-sided (McNemar's exact test).
        drop: Percentage points of top-1 that were lost.
    """

    name: str
    images: int
    dense: Proportion
    pruned: Proportion
    lost: list[int]
    gained: list[int]
    p_value: float
    drop: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "drop", 100 * (len(self.lost) - len(self.gained)) / self.images)


@dataclass(frozen=True)
class Confusion:
    """How often images of one class are taken for another.

    Attributes:
        truth: Name of their class.
        taken_for: Name of the other.
        dense: How often by the dense model.
        pruned: How often by the pruned model.
    """

    truth: str
    taken_for: str
    dense: int
    pruned: int


@dataclass(frozen=True)
class Audit:
    """What pruning did to the classes.

    Attributes:
        classes: In the order of their labels, without those that have no images.
        overall: All images together.
        confusions: Those that became more, the largest increase first.
        class_names: Of all classes, by label.
        guard: What the run's guard of the classes came to, before training and on training images; None without one.
        without_images: Names of the classes of which there is no image, so that nothing is known of them.
        worst: The class that lost most.
    """

    classes: list[ClassAudit]
    overall: ClassAudit
    confusions: list[Confusion]
    class_names: list[str]
    guard: GuardFigures | None = None
    without_images: list[str] = field(init=False)
    worst: ClassAudit = field(init=False)

    def __post_init__(self) -> None:
        audited = {found.name for found in self.classes}
        object.__setattr__(self, "without_images", [name for name in self.class_names if name not in audited])
        object.__setattr__(self, "worst", max(self.classes, key=lambda found: found.drop))


def audit(dense: Tensor, pruned: Tensor, labels: Tensor, class_names: Sequence[str]) -> Audit:
    """Compares the predictions of two models for the same images, class by class.

    Args:
        dense: (images,) classes that the dense model predicts.
        pruned: (images,) classes that the pruned model predicts.
        labels: (images,) true classes.
        class_names: By label; a class without images is left out.

    Raises:
        UsageError: If there are no images, or not as many predictions as labels.
    """
    if not len(dense) == len(pruned) == len(labels) > 0:
        raise UsageError(
            f"An audit needs both models' predictions for each image, but there are {len(dense)} and {len(pruned)} for "
            f"{len(labels)} images; predict all of them."
        )
    before, now = dense == labels, pruned == labels
    classes = [
        _audited(before, now, labels == label, name)
        for label, name in enumerate(class_names)
        if (labels == label).any()
    ]
    overall = _audited(before, now, torch.ones_like(before), "all classes")
    return Audit(classes, overall, _confusions(dense, pruned, labels, class_names), list(class_names))


def audit_run(run: FinishedRun) -> Audit:
    """Returns the audit of a run's dense and pruned models on the images that the run was measured on.

    Raises:
        UsageError: If the images are not where they were, or there are none.
        XPrunerError: If a file of the run is damaged.
    """
    dense, labels = run.predictions_of(run.dense)
    pruned, _ = run.predictions_of(run.pruned)
    return replace(audit(dense, pruned, labels, unique_names(run.class_names)), guard=run.guard)


def _audited(before: Tensor, now: Tensor, own: Tensor, name: str) -> ClassAudit:
    """Returns the audit of the ``own`` ones of the images, of which both models are right or wrong, all (images,)."""
    images = int(own.sum())
    lost, gained = ((own & changed).nonzero().flatten().tolist() for changed in (before & ~now, now & ~before))
    right = [Proportion.of(int((own & model).sum()), images) for model in (before, now)]
    changes = len(lost) + len(gained)
    p_value = float(binomtest(len(lost), changes).pvalue) if changes else 1.0
    return ClassAudit(name, images, right[0], right[1], lost, gained, p_value)


def _confusions(dense: Tensor, pruned: Tensor, labels: Tensor, names: Sequence[str]) -> list[Confusion]:
    before, now = (_table(predicted, labels, len(names)) for predicted in (dense, pruned))
    rising = ((now > before) & ~torch.eye(len(names), dtype=torch.bool)).nonzero().tolist()
    found = [Confusion(names[t], names[p], int(before[t, p]), int(now[t, p])) for t, p in rising]
    return sorted(found, key=lambda c: c.dense - c.pruned)


def _table(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Returns the (classes, classes) counts, true class by row."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
