"""What a model predicts for an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import logits_of

SHOWN = 5


@dataclass(frozen=True)
class Prediction:
    """A class and the probability that a model gives it, 0 to 1."""

    name: str
    probability: float


def probabilities(model: nn.Module, image: Tensor) -> Tensor:
    """Returns a model's probability of each class, (classes,), for an image (3, height, width) as it takes them."""
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        return logits_of(model(image[None].to(device)))[0].float().softmax(0).cpu()


def top_predictions(
    model: nn.Module, image: Tensor, class_names: Sequence[str], count: int = SHOWN
) -> list[Prediction]:
    """Returns the classes that are most probable to a model, the most probable first.

    Args:
        model: The classifier.
        image: (3, height, width), normalised as the model takes it.
        class_names: Of its outputs.
        count: How many classes at most.
    """
    best = probabilities(model, image).topk(min(count, len(class_names)))
    return [
        Prediction(class_names[label], share)
        for share, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
