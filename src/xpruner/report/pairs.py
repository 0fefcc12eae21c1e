"""Pairs of explanation maps: what the dense and the pruned model look at in the same image."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xpruner.data import InputSpec
from xpruner.errors import UsageError, unknown
from xpruner.explain.agreement import spearman
from xpruner.explain.finished import FinishedRun
from xpruner.explain.maps import map_methods, saliency
from xpruner.explain.pictures import data_uri, heated, pixels_of

log = logging.getLogger("xpruner")

RIGHT, LOST = 3, 3


@dataclass(frozen=True)
class Pair:
    """An image and what both models look at when they are asked for its true class.

    Attributes:
        number: Of the image.
        truth: Name of its class.
        dense: Name of the class that the dense model takes it for.
        pruned: The same of the pruned model.
        picture: The image, as a ``data:`` address.
        dense_map: The dense model's map, laid over the image.
        pruned_map: That of the pruned model.
        agreement: Rank correlation of the two maps, -1 to 1.
    """

    number: int
    truth: str
    dense: str
    pruned: str
    picture: str
    dense_map: str
    pruned_map: str
    agreement: float


def choose(right: Sequence[int], lost: Sequence[int]) -> list[int]:
    """Returns images that both models get right, evenly spread, and the first of those that were lost."""
    places = torch.linspace(0, len(right) - 1, min(RIGHT, len(right))).long().tolist()
    return [right[place] for place in places] + list(lost[:LOST])


def explained(
    run: FinishedRun,
    numbers: Sequence[int],
    answers: tuple[Tensor, Tensor, Tensor],
    names: Sequence[str],
    method: str,
) -> tuple[list[Pair], str]:
    """Returns the pairs of maps of some images, or none and the reason why there are none.

    Args:
        run: A finished run.
        numbers: Of the images.
        answers: Labels and what the dense and the pruned model say, of all images.
        names: Of the classes.
        method: That makes the maps.

    Raises:
        UsageError: If the method is unknown.
    """
    if method not in map_methods():
        raise unknown("explanation method", method, map_methods())
    if not numbers:
        return [], "No image was right before pruning."
    images = torch.stack([run.images[number][0] for number in numbers])
    truth = answers[0][list(numbers)]
    try:
        dense, pruned = (saliency(model, images, method=method, targets=truth) for model in (run.dense, run.pruned))
    except UsageError as error:
        log.warning("no explanation maps: %s", error)
        return [], str(error)
    spec, agreement = InputSpec.of(run.dense), spearman(dense, pruned).tolist()
    pairs = []
    for place, number in enumerate(numbers):
        pixels = pixels_of(images[place], spec)
        dense_map, pruned_map = (data_uri(heated(pixels, found[place].numpy())) for found in (dense, pruned))
        label, dense_says, pruned_says = (names[int(answer[number])] for answer in answers)
        pairs.append(
            Pair(number, label, dense_says, pruned_says, data_uri(pixels), dense_map, pruned_map, agreement[place])
        )
    return pairs, ""
