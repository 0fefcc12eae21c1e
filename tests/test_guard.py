import math
from dataclasses import replace

import pytest
import torch
from tiny_models import Noise
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from xpruner.config import CompensateConfig, DataConfig, RunConfig
from xpruner.errors import UsageError
from xpruner.guard import RATE, _Guard, guarded, reweighted, unseen
from xpruner.methods import Problem, find_method
from xpruner.plan import Budget, solve
from xpruner.units import find_units

HIDDEN = "blocks.1.mlp:hidden"


def test_multipliers_rise_for_the_classes_beyond_the_limit_alone():
    weights = reweighted(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([5.0, 3.0, math.nan]), 3.0)
    raised = torch.tensor([math.exp(2 * RATE), 2.0, 1.0])
    torch.testing.assert_close(weights, raised / raised.mean())


@pytest.fixture
def speaks_for_class_0(tiny_vit) -> nn.Module:
    """Hidden unit 0 of the last block alone says class 0; without it the model says class 1."""
    with torch.no_grad():
        for parameter in tiny_vit.parameters():
            parameter.zero_()
        tiny_vit.norm.weight.fill_(1.0)
        tiny_vit.blocks[1].mlp.fc1.bias[0] = 3.0
        tiny_vit.blocks[1].mlp.fc2.weight[0, 0] = 1.0
        tiny_vit.head.weight[0, 0], tiny_vit.head.bias[1] = 1.0, 0.5
    return tiny_vit


def problem_of(model: nn.Module) -> Problem:
    """Eight images to compensate on and eight others, all of class 0, four fifths of the model's MACs."""
    train = TensorDataset(torch.randn(16, 3, 32, 32), torch.zeros(16, dtype=torch.long))
    calibration = [(torch.stack([train[i][0] for i in range(8)]), torch.zeros(8, dtype=torch.long))]
    config = RunConfig(data=DataConfig(batch_size=8), compensate=CompensateConfig(mode="none"), precision="fp32")
    return Problem(model, find_units(model, ["hidden"]), train, calibration, 5, Budget(0.8), config)


def masks_of(problem: Problem, of_unit_0: Tensor) -> dict[str, Tensor]:
    """Odds of 1 everywhere but for one unit, whose odds by class are given."""
    masks = {group.key: torch.full((5, group.size), 0.5) for group in problem.units}
    masks[HIDDEN][:, 0] = of_unit_0 / (1 + of_unit_0)
    return masks


def test_a_class_that_would_be_lost_gets_the_unit_it_needs(speaks_for_class_0):
    """On average unit 0 is worth 3 / 5, less than the others' 1; with a weight of 5/3 or more on class 0 it stays."""
    problem = problem_of(speaks_for_class_0)
    masks = masks_of(problem, torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0]))
    plan = solve(problem.units, {key: (m / (1 - m)).mean(0) for key, m in masks.items()}, problem.budget)
    assert 0 not in plan.keep[HIDDEN]
    held = guarded(problem, masks, plan, 2.0)
    assert 0 in held.plan.keep[HIDDEN] and held.worst == 0 and held.weights[0] > 5 / 3
    assert problem.units.cost(held.plan.keep) == pytest.approx(0.8 * problem.units.total(), rel=0.01)


def test_a_plan_that_holds_is_taken_as_it_is(speaks_for_class_0):
    problem = problem_of(speaks_for_class_0)
    plan = solve(problem.units, {g.key: torch.arange(g.size, 0, -1.0) for g in problem.units}, problem.budget)
    held = guarded(problem, masks_of(problem, torch.ones(5)), plan, 2.0)
    assert held.plan is plan and held.weights.tolist() == [1.0] * 5


def test_a_step_too_far_is_taken_back_and_half_of_it_tried(speaks_for_class_0, monkeypatch):
    problem = problem_of(speaks_for_class_0)
    plan = solve(problem.units, {g.key: torch.arange(g.size, 0, -1.0) for g in problem.units}, problem.budget)
    losses = [torch.tensor([loss, 0.0, 0.0, 0.0, 0.0]) for loss in (4.0, 6.0, 1.5)]
    left = iter(losses)
    monkeypatch.setattr(_Guard, "_drops", lambda self, plan: next(left))
    held = guarded(problem, masks_of(problem, torch.ones(5)), plan, 2.0)
    raised = torch.tensor([math.exp(RATE / 2 * 2), 1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(held.weights, raised / raised.mean())
    assert held.worst == 1.5 and next(left, None) is None


def test_a_guard_that_cannot_be_met_says_what_can(speaks_for_class_0):
    problem = problem_of(speaks_for_class_0)
    masks = masks_of(problem, torch.full((5,), 1e-3))
    plan = solve(problem.units, {key: m.mean(0) for key, m in masks.items()}, problem.budget)
    with pytest.raises(UsageError) as caught:
        guarded(problem, masks, plan, 2.0)
    assert str(caught.value) == (
        "No plan was found at 0.80 of the dense model's macs under which every class loses at most 2 points before "
        "training; set max_class_drop to 100 or more."
    )


def test_the_guard_is_measured_on_images_that_calibration_has_not_seen(speaks_for_class_0):
    problem = problem_of(speaks_for_class_0)
    assert list(unseen(problem).indices) == list(range(8, 16))
    everything = replace(problem, calibration=[(torch.zeros(16, 3, 32, 32), torch.zeros(16, dtype=torch.long))])
    assert list(unseen(everything).indices) == list(range(16))


def test_the_method_reports_the_largest_drop(tiny_vit):
    config = RunConfig(rounds=1, max_class_drop=100.0, data=DataConfig(batch_size=8), precision="fp32")
    calibration = [(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)]
    problem = Problem(tiny_vit, find_units(tiny_vit), Noise(40), calibration, 5, Budget(0.5), config)
    guarded_figures = find_method("xpruner")(problem).figures
    assert -100 <= guarded_figures["largest class drop"] <= 100
    assert (
        "largest class drop"
        not in find_method("xpruner")(replace(problem, config=replace(config, max_class_drop=None))).figures
    )
