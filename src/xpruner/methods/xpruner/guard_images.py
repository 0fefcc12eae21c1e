"""The training images of a guarded run: those on which drops are measured, and those for compensation, by class."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from xpruner.calibration.moments import Batches
from xpruner.config import DataConfig, RunConfig
from xpruner.data import ImageDataset, batches
from xpruner.data.by_class import place_in_class
from xpruner.errors import UsageError

if TYPE_CHECKING:
    from xpruner.methods._problem import Problem

IMAGES = 10_000
"""Images to measure on; more where the limit needs more of a class."""


def guarded_calibration(figures: Mapping[str, Any], train: Dataset, calibration: Batches, config: RunConfig) -> Batches:
    """Returns the images to compensate a plan on: those that the guard of the search chose, where there was one.

    Args:
        figures: Of the search; the guard's are under ``guard``.
        train: The training images.
        calibration: The first of them, for calibration.
        config: Of the run.
    """
    if "guard" not in figures or config.max_class_drop is None:
        return calibration
    weights = torch.tensor(figures["guard"]["weights"])
    return weighed_calibration(weights, train, calibration, config.max_class_drop, config.data)


def weighed_calibration(
    weights: Tensor, train: Dataset, calibration: Batches, limit: float, config: DataConfig
) -> Batches:
    """Returns calibration images with the number of each class scaled by its multiplier.

    Additional images of a class are further training images, but none on which drops are measured.

    Args:
        weights: (classes,) multipliers; where all are 1 nothing changes.
        train: The training images.
        calibration: The first of them.
        limit: Of the guard, as :func:`to_measure` takes it.
        config: How images are loaded.
    """
    labels, seen = _labels(train), sum(len(batch) for _, batch in calibration)
    if len(labels) <= seen or bool((weights == 1).all()):
        return calibration
    free = torch.ones(len(labels), dtype=torch.bool)
    free[to_measure(labels, seen, limit)] = False
    numbers = free.nonzero().flatten()
    wanted = (weights * torch.bincount(labels[:seen], minlength=len(weights))).round()
    chosen = numbers[place_in_class(labels[numbers]) < wanted[labels[numbers]]].tolist()
    return list(batches(_chosen(train, chosen), config.batch_size, seed=0, shuffle=False))


def unseen(problem: "Problem", limit: float) -> Dataset:
    """Returns training images without augmentation that are not for calibration, as :func:`to_measure` chooses."""
    seen = sum(len(labels) for _, labels in problem.calibration)
    return _chosen(problem.train, to_measure(_labels(problem.train), seen, limit))


def _chosen(train: Dataset, numbers: list[int]) -> Dataset:
    """Returns some of the training images without augmentation and without unreadable ones."""
    return train.plain().only(numbers).readable() if isinstance(train, ImageDataset) else Subset(train, numbers)


def _labels(train: Any) -> Tensor:
    return train.labels if hasattr(train, "labels") else torch.tensor([label for _, label in train])


def to_measure(labels: Tensor, seen: int, limit: float) -> list[int]:
    """Returns the numbers of the training images on which drops are measured.

    These are the first :data:`IMAGES` that are not for calibration, but at most half of these, or the first of all
    where there are no others; and of each class enough that one image weighs no more than the limit.

    Args:
        labels: (images,) of the training images.
        seen: How many of them, the first ones, are for calibration.
        limit: Percentage points of top-1.

    Raises:
        UsageError: If a class has too few.
    """
    first = seen if len(labels) > seen else 0
    left, classes = labels[first:], int(labels.max()) + 1
    needed = math.ceil(100 / limit)
    counts = torch.bincount(left, minlength=classes)
    fewest, scarce = counts.masked_fill(torch.bincount(labels, minlength=classes) == 0, len(labels)).min(0)
    if fewest < needed:
        larger = f"set it to {math.ceil(1000 / fewest.item()) / 10:g} or more, or " if fewest else ""
        raise UsageError(
            f"max_class_drop is {limit:g}, for which {needed} training images of each class are needed, so that one "
            f"weighs no more, but class {scarce.item()} has {fewest.item()} that are not for calibration; {larger}"
            "give more images (data.train_size, data.calibration_size)."
        )
    most = min(IMAGES, len(left) // 2 if first else len(left))
    wanted = (torch.arange(len(left)) < most) | (place_in_class(left) < needed)
    return (first + wanted.nonzero().flatten()).tolist()
