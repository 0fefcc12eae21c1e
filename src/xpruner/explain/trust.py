"""How far explanation maps can be trusted: faithful to their model, and the same in the dense and the pruned one."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xpruner.errors import UsageError
from xpruner.explain.agreement import Agreement, agreement, random_floor
from xpruner.explain.faithfulness import deletion_auc, insertion_auc
from xpruner.explain.finished import FinishedRun
from xpruner.explain.maps import find_method, grid_of, saliency

log = logging.getLogger("xpruner")

AT_ONCE = 20
"""Images whose maps are made in one go."""


@dataclass(frozen=True)
class MapTrust:
    """Of one method's maps, means over the images.

    Attributes:
        insertion: Area under the insertion curve by model, each model's maps scored on itself; higher is better.
        deletion: Area under the deletion curve by model, likewise; lower is better.
        agreement: Of the first model's maps with those of each other model, by the name of that.
        floor: Of the first model's maps with shuffled ones: what agreement is worth by chance.
        seconds: That a map took.
    """

    insertion: dict[str, float]
    deletion: dict[str, float]
    agreement: dict[str, Agreement]
    floor: Agreement
    seconds: float


@dataclass(frozen=True)
class MapsCard:
    """Several methods on the same images.

    Attributes:
        images: How many; all models get them right.
        seed: Of the shuffles of the floor.
        methods: By name.
    """

    images: int
    seed: int
    methods: dict[str, MapTrust]


def maps_card(run: FinishedRun, methods: Sequence[str], count: int, seed: int = 0) -> MapsCard:
    """Returns how far the maps of a run's dense and pruned model can be trusted, for their images' true classes.

    Args:
        run: A finished run.
        methods: Some of :func:`xpruner.explain.maps.map_methods`.
        count: How many images at most, of those that both models get right.
        seed: Of the shuffles.

    Raises:
        UsageError: If a method is unknown or cannot read a model, or the models get no image right.
    """
    for method in methods:
        find_method(method)  # an unknown name is told before anything is computed
    models = {"dense": run.dense, "pruned": run.pruned}
    images, labels = right_everywhere(run, list(models.values()), count)
    found = {}
    for method in methods:
        found[method] = map_trust(models, images, labels, method, seed)
        log.info("%s: a map takes %.2f s.", method, found[method].seconds)
    return MapsCard(len(images), seed, found)


def map_trust(models: Mapping[str, nn.Module], images: Tensor, labels: Tensor, method: str, seed: int = 0) -> MapTrust:
    """Returns how faithful a method's maps are to several models, and how far they agree with those of the first.

    Args:
        models: By name; the first is what the others are compared with.
        images: (images, channels, height, width), normalised as all models take them.
        labels: (images,) the classes that are explained.
        method: Of the maps.
        seed: Of the shuffles.

    Raises:
        UsageError: If the method is unknown or cannot read a model.
    """
    start = time.perf_counter()
    maps = {name: _maps(model, images, method, labels) for name, model in models.items()}
    seconds = (time.perf_counter() - start) / len(images) / len(models)
    first, *others = maps
    height, width = images.shape[-2:]
    return MapTrust(
        {name: insertion_auc(models[name], images, found, labels).mean().item() for name, found in maps.items()},
        {name: deletion_auc(models[name], images, found, labels).mean().item() for name, found in maps.items()},
        {name: agreement(maps[first], maps[name]) for name in others},
        random_floor(maps[first], grid_of(models[first], method, (height, width)), seed=seed),
        seconds,
    )


def right_everywhere(run: FinishedRun, models: Sequence[nn.Module], count: int) -> tuple[Tensor, Tensor]:
    """Returns at most ``count`` images that all models get right, evenly spread over the run's, and their labels.

    Raises:
        UsageError: If there is none.
    """
    answers = [run.said_by(model) for model in models]
    labels = answers[0][1]
    right = torch.stack([said == labels for said, _ in answers]).all(0).nonzero().flatten()
    if not len(right):
        raise UsageError(
            f"No image of {run.folder} is right in all {len(models)} models, and maps of wrong answers would be "
            "compared; take a run that is more accurate."
        )
    chosen = right[torch.linspace(0, len(right) - 1, min(count, len(right))).long()]
    return torch.stack([run.images[number][0] for number in chosen.tolist()]), labels[chosen]


def _maps(model: nn.Module, images: Tensor, method: str, labels: Tensor) -> Tensor:
    pairs = zip(images.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
    return torch.cat([saliency(model, some, method, targets) for some, targets in pairs])
