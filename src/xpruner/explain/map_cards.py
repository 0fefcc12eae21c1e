"""The quality of explanation maps: faithful to their model, and similar in the dense and the pruned one."""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xpruner.errors import UsageError
from xpruner.explain.boxes import Box, object_mask
from xpruner.maps import find_map, grid_of, saliency
from xpruner.maps.metrics.agreement import Agreement, agreement, chance_agreement
from xpruner.maps.metrics.faithfulness import deletion_auc, energy_inside, insertion_auc, pointing_hits
from xpruner.run.finished import FinishedRun

log = logging.getLogger("xpruner")

AT_ONCE = 20
"""Images whose maps are made in one go."""
TOLERANCE = 15 / 224
"""Of the pointing game, as a share of the image's longer side: its 15 pixels at 224 px, fewer in smaller images."""


@dataclass(frozen=True)
class Inside:
    """How much of the maps lies on the objects, means over the images.

    Attributes:
        pointing: Share of the maps that point at the object, within :data:`TOLERANCE`.
        energy: Share of the positive saliency inside.
    """

    pointing: float
    energy: float


@dataclass(frozen=True)
class MapQuality:
    """The quality of one method's maps, means over the images.

    Attributes:
        insertion: Area under the insertion curve by model, each model's maps scored on itself; higher is better.
        deletion: Area under the deletion curve by model, likewise; lower is better.
        agreement: Of the first model's maps with those of each other model, by the name of that.
        chance: The chance level of agreement: that of the first model's maps with shuffled ones.
        seconds: That a map took.
        inside: How much of each model's maps lies on the objects, by model, where it is known where those are.
    """

    insertion: dict[str, float]
    deletion: dict[str, float]
    agreement: dict[str, Agreement]
    chance: Agreement
    seconds: float
    inside: dict[str, Inside] | None = None


@dataclass(frozen=True)
class MapsCard:
    """Several methods on the same images.

    Attributes:
        images: How many; all models get them right.
        seed: Of the shuffled maps.
        methods: By name.
        covered: Share of the images that their boxes cover, 0 to 1, if there are any: the energy inside of a map that
            is the same everywhere.
    """

    images: int
    seed: int
    methods: dict[str, MapQuality]
    covered: float | None = None


def maps_card(
    run: FinishedRun, methods: Sequence[str], count: int, seed: int = 0,
    boxes: Mapping[int, Sequence[Box]] | None = None,
) -> MapsCard:  # fmt: skip
    """Returns the quality of the maps of a run's dense and pruned model, for their images' true classes.

    Args:
        run: A finished run.
        methods: Some of :func:`xpruner.maps.list_maps`.
        count: How many images at most, of those that both models get right.
        seed: Of the shuffles.
        boxes: Around the objects, by the image's number, as :func:`~xpruner.explain.boxes.read_boxes` finds them; only
            these images are used.

    Raises:
        UsageError: If a method is unknown or cannot read a model, the models get no image right, or a box is wrong.
    """
    for method in methods:
        find_map(method)  # fail early on an unknown name
    models = {"dense": run.dense, "pruned": run.pruned}
    numbers = correct_in_all(run, list(models.values()), count, boxes)
    numbers, masks = (numbers, None) if boxes is None else _boxed(run, numbers, boxes)
    images, labels = stack_images(run, numbers)
    found = {}
    for method in methods:
        found[method] = map_quality(models, images, labels, method, seed, masks)
        log.info("%s: a map takes %.2f s.", method, found[method].seconds)
    return MapsCard(len(images), seed, found, None if masks is None else masks.double().mean().item())


def map_quality(
    models: Mapping[str, nn.Module], images: Tensor, labels: Tensor, method: str, seed: int = 0,
    masks: Tensor | None = None,
) -> MapQuality:  # fmt: skip
    """Returns how faithful a method's maps are to several models, and how far they agree with those of the first.

    Args:
        models: By name; the first is what the others are compared with.
        images: (images, channels, height, width), normalised as all models take them.
        labels: (images,) the classes that are explained.
        method: Of the maps.
        seed: Of the shuffles.
        masks: (images, height, width), True where the objects are, if that is known.

    Raises:
        UsageError: If the method is unknown or cannot read a model, or a mask has no pixel.
    """
    start = time.perf_counter()
    maps = {name: _maps(model, images, method, labels) for name, model in models.items()}
    seconds = (time.perf_counter() - start) / len(images) / len(models)
    first, *others = maps
    height, width = images.shape[-2:]
    return MapQuality(
        {name: insertion_auc(models[name], images, found, labels).mean().item() for name, found in maps.items()},
        {name: deletion_auc(models[name], images, found, labels).mean().item() for name, found in maps.items()},
        {name: agreement(maps[first], maps[name]) for name in others},
        chance_agreement(maps[first], grid_of(models[first], method, (height, width)), seed=seed),
        seconds,
        None if masks is None else {name: _inside(found, masks) for name, found in maps.items()},
    )


def correct_in_all(
    run: FinishedRun, models: Sequence[nn.Module], count: int, among: Collection[int] | None = None
) -> list[int]:
    """Returns the numbers of at most ``count`` images that all models get right, evenly spread over the run's.

    Args:
        run: A finished run.
        models: Which.
        count: How many images at most.
        among: The numbers to choose from; absent, all.

    Raises:
        UsageError: If there is none.
    """
    predictions = [run.predictions_of(model) for model in models]
    labels = predictions[0][1]
    right = torch.stack([predicted == labels for predicted, _ in predictions]).all(0).nonzero().flatten().tolist()
    right = [number for number in right if among is None or number in among]
    if not right:
        raise UsageError(
            f"No image of {run.folder}{'' if among is None else ' with a box'} is right in all {len(models)} models, "
            "and maps of wrong predictions would be compared; take a run that is more accurate."
        )
    return [right[place] for place in torch.linspace(0, len(right) - 1, min(count, len(right))).long().tolist()]


def stack_images(run: FinishedRun, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns images of a run (images, 3, height, width) and their labels (images,)."""
    images, labels = zip(*(run.images[number] for number in numbers), strict=True)
    return torch.stack(images), torch.tensor(labels)


def _boxed(run: FinishedRun, numbers: Sequence[int], boxes: Mapping[int, Sequence[Box]]) -> tuple[list[int], Tensor]:
    """Returns the images of which the models see a box, and the masks of these."""
    masks = {number: object_mask(run, number, boxes[number]) for number in numbers}
    if unseen := [number for number in numbers if not masks[number].any()]:
        log.warning("The boxes of %d images, such as %d, lie outside of what the models see.", len(unseen), unseen[0])
    seen = [number for number in numbers if masks[number].any()]
    if not seen:
        raise UsageError("No box lies in what the models see of the images; give boxes nearer to their centres.")
    return seen, torch.stack([masks[number] for number in seen])


def _inside(maps: Tensor, masks: Tensor) -> Inside:
    hits = pointing_hits(maps, masks, radius=TOLERANCE * max(maps.shape[1:]))
    return Inside(hits.double().mean().item(), energy_inside(maps, masks).mean().item())


def _maps(model: nn.Module, images: Tensor, method: str, labels: Tensor) -> Tensor:
    pairs = zip(images.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
    return torch.cat([saliency(model, some, method, targets) for some, targets in pairs])
