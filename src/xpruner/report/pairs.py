"""Pairs of explanation maps: those of the dense and the pruned model for the same image."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from xpruner.data import InputSpec
from xpruner.errors import UsageError
from xpruner.explain.map_pair import MapSimilarity, map_pair
from xpruner.explain.pictures import data_uri, heated, pixels_of
from xpruner.maps import find_map
from xpruner.run.finished import FinishedRun

log = logging.getLogger("xpruner")

RIGHT, LOST = 3, 3


@dataclass(frozen=True)
class Pair:
    """An image and the maps of both models for its true class.

    Attributes:
        number: Of the image.
        truth: Name of its class.
        dense: Name of the class that the dense model takes it for.
        pruned: The same of the pruned model.
        picture: The image, as a ``data:`` address.
        dense_map: The dense model's map, laid over the image.
        pruned_map: That of the pruned model.
        similarity: Of the two maps.
        chance: The chance level of their similarity.
    """

    number: int
    truth: str
    dense: str
    pruned: str
    picture: str
    dense_map: str
    pruned_map: str
    similarity: MapSimilarity
    chance: MapSimilarity


@dataclass(frozen=True)
class Maps:
    """Explanation maps of some images.

    Attributes:
        method: That made them.
        pairs: One for each image.
        without: Why there are none; empty, where there are.
    """

    method: str
    pairs: list[Pair]
    without: str = ""

    @property
    def of_class(self) -> bool:
        """Whether a map explains one class; else it does not depend on the class."""
        return find_map(self.method).of_class

    @property
    def similarity(self) -> MapSimilarity:
        """The mean over the images."""
        return _mean([pair.similarity for pair in self.pairs])

    @property
    def chance(self) -> MapSimilarity:
        """The mean over the images."""
        return _mean([pair.chance for pair in self.pairs])


def choose(right: Sequence[int], lost: Sequence[int]) -> list[int]:
    """Returns images that both models get right, evenly spread, and the first of those that were lost."""
    places = torch.linspace(0, len(right) - 1, min(RIGHT, len(right))).long().tolist()
    return [right[place] for place in places] + list(lost[:LOST])


def check_numbers(run: FinishedRun, numbers: Sequence[int]) -> None:
    """Raises UsageError where a run has no image of one of these numbers."""
    for number in numbers:
        if not 0 <= number < len(run.images):
            raise UsageError(f"The run has no image {number}; choose from 0 to {len(run.images) - 1}.")


def explained(
    run: FinishedRun,
    numbers: Sequence[int],
    predictions: tuple[Tensor, Tensor, Tensor],
    names: Sequence[str],
    method: str,
) -> Maps:
    """Returns the pairs of maps of some images, or none and the reason why there are none.

    Args:
        run: A finished run.
        numbers: Of the images.
        predictions: Labels and the classes that the dense and the pruned model predict, of all images.
        names: Of the classes.
        method: That makes the maps.
    """
    if not numbers:
        return Maps(method, [], "No image was right before pruning.")
    try:
        return Maps(method, [_pair(run, number, predictions, names, method) for number in numbers])
    except UsageError as error:
        log.warning("no explanation maps: %s", error)
        return Maps(method, [], str(error))


def _pair(
    run: FinishedRun, number: int, predictions: tuple[Tensor, Tensor, Tensor], names: Sequence[str], method: str
) -> Pair:
    image = run.images[number][0]
    label, by_dense, by_pruned = (int(classes[number]) for classes in predictions)
    found = map_pair(run.dense, run.pruned, image, method, label)
    pixels = pixels_of(image, InputSpec.of(run.dense))
    dense_map, pruned_map = (data_uri(heated(pixels, m.numpy())) for m in (found.dense, found.pruned))
    return Pair(
        number, names[label], names[by_dense], names[by_pruned], data_uri(pixels), dense_map, pruned_map,
        found.similarity, found.chance,
    )  # fmt: skip


def _mean(found: Sequence[MapSimilarity]) -> MapSimilarity:
    return MapSimilarity(fmean(one.spearman for one in found), fmean(one.top_overlap for one in found))
