"""What a model predicts for an image."""

import math

import pytest
import torch
from torch import nn

from xpruner.explain.predictions import probabilities, top_predictions

NAMES = ["cat", "dog", "owl"]


class Says(nn.Module):
    """Has the same opinion of every image, and of nothing in training mode."""

    def __init__(self, *probabilities: float):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([math.log(p) for p in probabilities]))

    def forward(self, images):
        return self.logits.expand(len(images), -1) * (not self.training)


def test_the_top_predictions_are_the_most_probable_classes():
    model, image = Says(0.2, 0.7, 0.1), torch.zeros(3, 4, 2)
    assert probabilities(model, image).tolist() == pytest.approx([0.2, 0.7, 0.1])
    first, second = top_predictions(model, image, NAMES, 2)
    assert (first.name, second.name) == ("dog", "cat")
    assert (first.probability, second.probability) == (pytest.approx(0.7), pytest.approx(0.2))
    assert len(top_predictions(model, image, NAMES)) == 3
    assert model.training
