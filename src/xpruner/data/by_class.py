"""Counts of images by class, and stratified orders of them."""

import numpy as np
import torch
from torch import Tensor


def place_in_class(labels: Tensor) -> Tensor:
    """Returns for each image how many of its class come before it, (images,)."""
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    return places


def absent(labels: Tensor, classes: int) -> list[int]:
    """Returns the classes, 0 to ``classes`` - 1, that none of the labels (images,) has."""
    return (torch.bincount(labels, minlength=classes) == 0).nonzero().flatten().tolist()


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns the numbers of images in a random order whose first ones hold the same share of every class.

    One image of each class that has two comes before all others, and the last one of each class after all others.

    Args:
        labels: int64 (images,), not negative.
        seed: Of the order within a class, and among classes of one size.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    labels = labels[shuffled]
    counts = np.bincount(labels)[labels]
    places = place_in_class(torch.from_numpy(labels)).numpy()
    turns = (places + 0.5) / counts
    turns[places == 0] = 0
    turns[places == counts - 1] = 1
    return shuffled[turns.argsort(kind="stable")]


def last_of_class_last(labels: np.ndarray) -> np.ndarray:
    """Returns the numbers of images in their order, with the last one of each class moved behind all others.

    Args:
        labels: int64 (images,), not negative.
    """
    places = place_in_class(torch.from_numpy(labels)).numpy()
    return (places == np.bincount(labels)[labels] - 1).argsort(kind="stable")


def size_to_hold_out(labels: np.ndarray, share: float) -> int:
    """Returns how many images of :func:`stratified_order` make up about this share of each class.

    A class with two images or more has at least one on either side; other classes are not divided.
    """
    counts = np.bincount(labels)
    least, most = (counts > 1).sum(), len(labels) - (counts > 0).sum()
    return int(np.clip(round(len(labels) * share), least, most))


def class_means(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Returns the (classes,) means of (images,) values; nan for a class without images."""
    counts = torch.bincount(labels, minlength=num_classes)
    return torch.zeros(num_classes, dtype=values.dtype).index_add_(0, labels, values) / counts
