import math

import pytest
import torch
from hand_made import KEY, hand_made

from xpruner.methods.taylor import mean_over_images, taylor, weight_times_gradient

A = 1 + math.log(3)
IMAGES = torch.tensor([[A, 1.0]] * 4)
LABELS = torch.tensor([0, 0, 0, 1])
"""Logits log 3 apart: probabilities 3/4 and 1/4, so gradients (-1/4, 1/4) for class 0 and (3/4, -3/4) for class 1."""
BATCHES = [(IMAGES[:1], LABELS[:1]), (IMAGES[1:], LABELS[1:])]


def test_gradients_of_gates_are_those_on_paper():
    problem = hand_made(BATCHES, [[1.0, 0.0], [0.0, 1.0]])
    gradients = {}
    mean_over_images(problem, lambda slopes: gradients.setdefault(len(slopes), slopes))
    assert gradients[1].tolist() == [pytest.approx([-A / 4, 1 / 4])]
    assert gradients[3].tolist() == [pytest.approx([-A / 4, 1 / 4])] * 2 + [pytest.approx([3 * A / 4, -3 / 4])]


def test_every_image_counts_alike():
    """Three images of one class and one of the other: (3/16 + 9/16) / 4, where classes would make (1/16 + 9/16) / 2."""
    scores = taylor(hand_made(BATCHES, [[1.0, 0.0], [0.0, 1.0]]))[KEY]
    assert scores.tolist() == pytest.approx([A**2 * 3 / 16, 3 / 16])


def test_the_channels_of_a_unit_change_the_loss_together():
    scores = taylor(hand_made(BATCHES, [[1.0, 0.0], [0.0, 1.0]], width=2))[KEY]
    assert scores.tolist() == pytest.approx([(A - 1) ** 2 * 3 / 16])


def test_weight_times_gradient_has_a_sign_and_is_zero_where_the_loss_does_not_hang_on_the_weight():
    weight, idle = torch.nn.Parameter(torch.tensor([2.0, -3.0])), torch.nn.Parameter(torch.ones(2))
    (weight * torch.tensor([5.0, 1.0])).sum().backward()
    assert weight_times_gradient(weight).tolist() == [10, -3]
    assert weight_times_gradient(idle).tolist() == [0, 0]
    assert not weight_times_gradient(weight).requires_grad and not weight_times_gradient(idle).requires_grad
