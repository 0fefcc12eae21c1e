import math

import pytest
import torch
from hand_made import KEY, hand_made
from methods_setup import tiny_problem

from xpruner.methods.head_gradient import head_gradient
from xpruner.methods.taylor import mean_over_images


def test_opposite_gradients_do_not_cancel():
    """Gradients of the gates (-a, 1) / 4 three times and (3 a, -3) / 4 once: mean 0, mean size (a, 1) 3/8."""
    a = 1 + math.log(3)
    batch = (torch.tensor([[a, 1.0]] * 4), torch.tensor([0, 0, 0, 1]))
    scores = head_gradient(hand_made([batch], [[1.0, 0.0], [0.0, 1.0]]))[KEY]
    assert scores.tolist() == pytest.approx([a**2 / (a**2 + 1), 1 / (a**2 + 1)])


def test_every_layers_scores_sum_to_one_and_keep_their_order():
    problem = tiny_problem("head_gradient")
    importance = mean_over_images(problem, torch.abs)
    for key, scores in head_gradient(problem).items():
        assert scores.sum().item() == pytest.approx(1)
        assert torch.equal(scores.argsort(), importance[key].argsort())
        assert torch.allclose(scores.sqrt(), importance[key] / importance[key].norm())
