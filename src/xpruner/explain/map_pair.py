"""The explanation maps of two models for the same image, their similarity, and its chance level."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xpruner.explain.predictions import probabilities
from xpruner.maps import find_map, grid_of, saliency
from xpruner.maps.metrics.agreement import shuffled, spearman, top_overlap

ANY_CLASS = "any class"
"""What is explained by maps that do not depend on the class."""
SHUFFLES = 20
"""Of a map; the chance level is their mean."""


@dataclass(frozen=True)
class MapSimilarity:
    """How similar two maps are.

    Attributes:
        spearman: Rank correlation of their pixels, -1 to 1.
        top_overlap: Intersection over union of their most salient 20 % of the pixels, 0 to 1.
    """

    spearman: float
    top_overlap: float

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> "MapSimilarity":
        """Returns the means over pairs of maps (batch, height, width)."""
        return cls(spearman(a, b).mean().item(), top_overlap(a, b).mean().item())


@dataclass(frozen=True)
class MapPair:
    """The maps of two models that explain the same class.

    Attributes:
        label: Of the class; None where the method's maps do not depend on the class.
        dense: (height, width), the dense model's map.
        pruned: That of the pruned model.
        similarity: Of the two maps.
        chance: The chance level of similarity: that of the dense model's map and :data:`SHUFFLES` shuffled ones, as
            smooth and as sparse as it is.
    """

    label: int | None
    dense: Tensor
    pruned: Tensor
    similarity: MapSimilarity
    chance: MapSimilarity

    def explained(self, class_names: Sequence[str]) -> str:
        """Returns the name of the class that the maps explain, or :data:`ANY_CLASS`."""
        return ANY_CLASS if self.label is None else class_names[self.label]


def map_pair(dense: nn.Module, pruned: nn.Module, image: Tensor, method: str, label: int | None = None) -> MapPair:
    """Returns the maps of both models for one class.

    Args:
        dense: The dense model.
        pruned: The pruned model.
        image: (3, height, width), normalised as the models take it.
        method: One of :func:`xpruner.maps.list_maps`.
        label: Of the class; absent, the one that the dense model predicts. Of no effect where the maps do not depend
            on it.

    Raises:
        UsageError: If the method is unknown or cannot read a model.
    """
    of_class = find_map(method).of_class
    if label is None:
        label = int(probabilities(dense, image).argmax())
    first, second = (saliency(model, image[None], method, torch.tensor([label])) for model in (dense, pruned))
    copies = first.repeat(SHUFFLES, 1, 1)
    height, width = image.shape[1:]
    chance = MapSimilarity.of(copies, shuffled(copies, grid_of(dense, method, (height, width))))
    return MapPair(label if of_class else None, first[0], second[0], MapSimilarity.of(first, second), chance)
