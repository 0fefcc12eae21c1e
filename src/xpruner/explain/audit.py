"""The class audit: which classes pay for what was removed, and with which images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from xpruner.errors import UsageError
from xpruner.explain.finished import BATCH, FinishedRun
from xpruner.training import predict

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """A share of images with its 95 % interval (Wilson 1927), all from 0 to 1."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, images: int) -> "Share":
        """Returns the share ``count`` of ``images``, of which there is one at least."""
        interval = binomtest(count, images).proportion_ci(CONFIDENCE, method="wilson")
        return cls(count / images, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class ClassAudit:
    """What pruning did to one class.

    Attributes:
        name: Of the class.
        images: How many of its images were looked at; one at least.
        dense: Share of them that the dense model gets right.
        pruned: Share of them that the pruned model gets right.
        lost: Numbers of the images that the dense model gets right and the pruned one wrong.
        gained: Numbers of the images that the pruned model gets right and the dense one wrong.
        p_value: Of a loss and a gain being equally likely, two-sided (McNemar's exact test).
    """

    name: str
    images: int
    dense: Share
    pruned: Share
    lost: list[int]
    gained: list[int]
    p_value: float

    @property
    def drop(self) -> float:
        """Percentage points of top-1 that were lost."""
        return 100 * (len(self.lost) - len(self.gained)) / self.images


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
    """The classes, in the order of their labels, and the confusions that became more, the largest increase first."""

    classes: list[ClassAudit]
    confusions: list[Confusion]

    @property
    def worst(self) -> ClassAudit:
        """The class that lost most."""
        return max(self.classes, key=lambda audited: audited.drop)


def audit(dense: Tensor, pruned: Tensor, labels: Tensor, class_names: Sequence[str]) -> Audit:
    """Compares what two models say about the same images, class by class.

    Args:
        dense: (images,) classes that the dense model names.
        pruned: (images,) classes that the pruned model names.
        labels: (images,) true classes.
        class_names: By label; a class without images is left out.

    Raises:
        UsageError: If there are no images, or not as many answers as labels.
    """
    if not len(dense) == len(pruned) == len(labels) > 0:
        raise UsageError(
            f"An audit needs both models' answers for each image, but there are {len(dense)} and {len(pruned)} for "
            f"{len(labels)} images; predict all of them."
        )
    present = [label for label in range(len(class_names)) if (labels == label).any()]
    classes = [_audited(dense, pruned, labels, label, class_names[label]) for label in present]
    return Audit(classes, _confusions(dense, pruned, labels, class_names))


def audit_run(run: FinishedRun) -> Audit:
    """Returns the audit of a run's dense and pruned models on the images that the run was measured on."""
    config = run.config
    loading: dict[str, Any] = {"batch_size": BATCH, "workers": config.data.workers, "precision": config.precision}
    dense, labels = predict(run.dense, run.images, **loading)
    pruned, _ = predict(run.pruned, run.images, **loading)
    return audit(dense, pruned, labels, run.data.class_names)


def _audited(dense: Tensor, pruned: Tensor, labels: Tensor, label: int, name: str) -> ClassAudit:
    of_class = labels == label
    images = int(of_class.sum())
    before, now = of_class & (dense == label), of_class & (pruned == label)
    lost, gained = (numbers.nonzero().flatten().tolist() for numbers in (before & ~now, now & ~before))
    changed = len(lost) + len(gained)
    p_value = float(binomtest(len(lost), changed).pvalue) if changed else 1.0
    return ClassAudit(
        name, images, Share.of(int(before.sum()), images), Share.of(int(now.sum()), images), lost, gained, p_value
    )


def _confusions(dense: Tensor, pruned: Tensor, labels: Tensor, names: Sequence[str]) -> list[Confusion]:
    before, now = (_table(said, labels, len(names)) for said in (dense, pruned))
    rising = ((now > before) & ~torch.eye(len(names), dtype=torch.bool)).nonzero().tolist()
    found = [Confusion(names[t], names[p], int(before[t, p]), int(now[t, p])) for t, p in rising]
    return sorted(found, key=lambda c: c.dense - c.pruned)


def _table(said: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Returns the (classes, classes) counts, true class by row."""
    return torch.bincount(labels * classes + said, minlength=classes**2).view(classes, classes)
