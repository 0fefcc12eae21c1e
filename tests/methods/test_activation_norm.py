from dataclasses import replace

import pytest
import torch
from hand_made import KEY, hand_made, unlabelled
from methods_setup import tiny_problem
from torch import nn

from xpruner.calibration.moments import Moments
from xpruner.errors import UsageError
from xpruner.methods import find_method
from xpruner.methods.activation_norm import activation_norm, columns, mean_square, variance
from xpruner.units import find_units

EYE = [[1.0, 0.0], [0.0, 1.0]]


def test_a_unit_is_worth_its_mean_square():
    problem = hand_made(unlabelled([1.0, -2.0], [7.0, -2.0]), EYE)
    assert activation_norm(problem)[KEY].tolist() == [25, 4]  # (1 + 49) / 2 and (4 + 4) / 2


def test_batches_count_by_their_tokens():
    problem = hand_made(unlabelled([1.0, 2.0]) + unlabelled([5.0, 2.0], [5.0, 2.0], [7.0, 2.0]), EYE)
    assert activation_norm(problem)[KEY].tolist() == [25, 4]  # (1 + 25 + 25 + 49) / 4


def test_the_channels_of_a_head_count_together():
    weight = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    problem = hand_made(unlabelled([3.0, 4.0, 0.0, 1.0], [3.0, 4.0, 0.0, 7.0]), weight, width=2)
    assert activation_norm(problem)[KEY].tolist() == [25, 25]  # 9 + 16 and 0 + (1 + 49) / 2


def test_columns_of_a_linear_layer_and_of_grouped_convolutions():
    linear = nn.Linear(3, 2)
    assert torch.equal(columns(linear), linear.weight.T.double())
    conv = nn.Conv2d(4, 6, 3, groups=2)
    found = columns(conv)
    assert found.shape == (4, 27)
    for channel, (outputs, place) in enumerate([(slice(3), 0), (slice(3), 1), (slice(3, 6), 0), (slice(3, 6), 1)]):
        assert torch.equal(found[channel], conv.weight[outputs, place].flatten().double())


def test_mean_square_and_variance():
    moments = Moments(2)
    moments.update(torch.tensor([[1.0, 3.0], [7.0, 3.0]]))
    assert mean_square(moments).tolist() == [25, 9]
    assert variance(moments).tolist() == [9, 0]


def test_variance_is_never_below_zero():
    moments = Moments(1)
    moments.update(torch.ones(4, 1))
    moments.sum_xx *= 1 - 1e-9  # as rounding may have it
    assert variance(moments).item() == 0


@pytest.mark.parametrize("name", ["activation_norm", "wanda", "flap", "vbp"])
def test_units_that_no_layer_reads_are_refused(name, tiny_vit):
    problem = replace(tiny_problem(name, tiny_vit), units=find_units(tiny_vit, ["block"]))
    with pytest.raises(UsageError, match=f"'{name}' scores units at their consumer and 'blocks.0:block' has none"):
        find_method(name)(problem)
