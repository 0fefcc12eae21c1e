import copy
import math
from dataclasses import replace

import pytest
import torch
from hand_made import KEY, half_of_the_units_constant, hand_made, unlabelled
from methods_setup import tiny_problem

from xpruner.config import SearchConfig
from xpruner.methods import find_method
from xpruner.methods.activation_norm import sum_over_channels
from xpruner.methods.flap import flap, fluctuation, standardised


def test_fluctuation_is_variance_times_the_squared_norm_of_the_column():
    activations = unlabelled([1.0, 2.0], [7.0, 4.0])  # variances 9 and 1
    weight = [[1.0, -2.0], [3.0, 4.0]]  # squared norms 10 and 20
    assert sum_over_channels(hand_made(activations, weight), fluctuation)[KEY].tolist() == [90, 20]
    assert sum_over_channels(hand_made(activations, weight, width=2), fluctuation)[KEY].tolist() == [110]


def test_standardised_scores_have_mean_0_and_variance_1():
    assert standardised(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])
    assert standardised(torch.tensor([4.0, 4.0])).tolist() == [0, 0]
    assert standardised(torch.tensor([4.0])).tolist() == [0]


def test_channels_are_standardised_before_a_units_are_averaged(monkeypatch):
    """Fluctuations 1, 1, 1 and 9: mean 3, deviation root 12; standardised after they are summed, units are -1 and 1."""
    activations = unlabelled([1.0, 1.0, 1.0, 3.0], [-1.0, -1.0, -1.0, -3.0])
    monkeypatch.setattr("xpruner.methods.flap.with_means_in_biases", lambda _problem, scores, _method: scores)
    scores = flap(hand_made(activations, [[1.0] * 4], width=2))
    assert scores[KEY].tolist() == pytest.approx([-2 / math.sqrt(12), 2 / math.sqrt(12)])


def test_constant_units_go_and_their_bias_makes_up_for_them_exactly():
    problem = half_of_the_units_constant("flap")
    outcome = flap(problem)
    assert all(kept == list(range(48)) for kept in outcome.plan.keep.values())
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(outcome.model(images), problem.model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("allocation", "same"), [("own", True), ("uniform", True), ("global", False), ("block", False)]
)
def test_by_itself_a_layers_scale_does_not_matter(allocation, same, tiny_vit):
    """The last MLP, whose activations depend on nothing after it, is read by weights ten times as large."""
    louder = copy.deepcopy(tiny_vit)
    louder.blocks[1].mlp.fc2.weight.data *= 10
    plans = [find_method("flap")(_problem(model, allocation)).plan for model in (tiny_vit, louder)]
    assert (plans[0].keep == plans[1].keep) is same
    kept = [len(plan.keep["blocks.1.mlp:hidden"]) for plan in plans]
    assert kept[1] == kept[0] if same else kept[1] > kept[0]


def _problem(model, allocation):
    problem = tiny_problem("flap", model)
    return replace(problem, config=replace(problem.config, search=SearchConfig(allocation=allocation)))
