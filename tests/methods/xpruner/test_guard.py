import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from run_and_die import tiny_run
from tiny_models import Noise
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from xpruner.cli.tables import show_result
from xpruner.config import CompensateConfig, DataConfig, FinetuneConfig, MaskConfig, RunConfig, ThresholdConfig
from xpruner.errors import UsageError
from xpruner.explain.audit import audit_run
from xpruner.methods import Problem, find_method
from xpruner.methods.xpruner.guard import RATE, _Guard, guarded, reweighted, weighed
from xpruner.methods.xpruner.guard_images import unseen
from xpruner.plan.budget import Budget
from xpruner.plan.solver import plan_from_scores
from xpruner.run.finished import open_run
from xpruner.run.pipeline import run_pipeline
from xpruner.units import find_units

HIDDEN = "blocks.1.mlp:hidden"
LIMIT = 12.5
"""Percentage points that one of eight images is worth."""


def test_multipliers_rise_for_the_classes_beyond_the_limit_alone():
    weights = reweighted(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([5.0, 3.0, math.nan]), 3.0)
    raised = torch.tensor([math.exp(2 * RATE), 2.0, 1.0])
    torch.testing.assert_close(weights, raised / raised.mean())


@pytest.fixture
def speaks_for_class_0(tiny_vit) -> nn.Module:
    """Hidden unit 0 of the last block alone predicts class 0; without it the model predicts class 1."""
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


def test_units_are_worth_the_weighed_odds():
    masks = {HIDDEN: torch.tensor([[0.5, 0.8], [0.8, 0.5]])}
    assert weighed(masks, torch.tensor([1.5, 0.5]))[HIDDEN].tolist() == pytest.approx([1.75, 3.25])


def test_a_class_that_would_be_lost_gets_the_unit_it_needs(speaks_for_class_0):
    """The mean importance of unit 0 is 3 / 5, less than the others' 1; with a weight of 5/3 or more on class 0 it is
    kept.

    Under the plan without the guard all images are lost, and it is the same at each of the larger budgets.
    """
    problem = problem_of(speaks_for_class_0)
    masks = masks_of(problem, torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0]))
    plan = plan_from_scores(problem.units, weighed(masks, torch.ones(5)), problem.budget)
    assert 0 not in plan.keep[HIDDEN]
    held = guarded(problem, masks, plan, LIMIT)
    figures = held.figures
    assert 0 in held.plan.keep[HIDDEN] and figures.largest == 0 and figures.weights[0] > 5 / 3 and figures.changed
    assert problem.units.cost(held.plan.keep) == pytest.approx(0.8 * problem.units.total(), rel=0.01)
    assert figures.drops == [0.0, None, None, None, None] and figures.images == 8
    assert (figures.limit, figures.price, figures.largest_without) == (LIMIT, -100.0, 100.0)
    assert figures.budget == pytest.approx(0.8) and figures.budget_without == 1.0  # 0.88 and 0.96 are too few
    json.dumps(asdict(figures), allow_nan=False)


def test_a_plan_that_holds_is_taken_as_it_is(speaks_for_class_0):
    problem = problem_of(speaks_for_class_0)
    plan = plan_from_scores(
        problem.units, {g.key: torch.arange(g.size, 0, -1.0) for g in problem.units}, problem.budget
    )
    held = guarded(problem, masks_of(problem, torch.ones(5)), plan, LIMIT)
    figures = held.figures
    assert held.plan is plan and figures.weights == [1.0] * 5 and not figures.changed
    assert (figures.price, figures.budget_without) == (0.0, None)


def answering(monkeypatch, *losses: float) -> list[float]:
    """Makes plans lose so many points of class 0, one after the other; returns those that nobody asked for."""
    left = list(losses)

    def lost(guard: _Guard, plan, weights) -> Tensor:
        points = torch.zeros(1000, dtype=torch.double)
        points[: round(10 * left.pop(0))] = 1.0
        return points

    def init(guard: _Guard, problem: Problem, masks, limit: float) -> None:
        guard.problem, guard.masks, guard.limit, guard.classes = problem, masks, limit, problem.num_classes
        guard.labels = torch.zeros(1000, dtype=torch.long)

    monkeypatch.setattr(_Guard, "__init__", init)
    monkeypatch.setattr(_Guard, "_lost", lost)
    return left


def test_multipliers_go_on_rising_from_the_newest_ones_and_the_best_are_taken(speaks_for_class_0, monkeypatch):
    """Beyond the limit by 2, 4 and 1 points; the first of the larger budgets, 1.1 times 0.8, holds without them."""
    problem = problem_of(speaks_for_class_0)
    plan = plan_from_scores(
        problem.units, {g.key: torch.arange(g.size, 0, -1.0) for g in problem.units}, problem.budget
    )
    left = answering(monkeypatch, 4.0, 6.0, 3.0, 1.5, 2.0)
    figures = guarded(problem, masks_of(problem, torch.ones(5)), plan, 2.0).figures
    raised = torch.tensor([math.exp(RATE * (2 + 4 + 1)), 1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(torch.tensor(figures.weights), raised / raised.mean())
    assert figures.largest == pytest.approx(1.5) and left == []
    assert (figures.price, figures.largest_without) == pytest.approx((-2.5, 4.0))
    assert figures.budget_without == pytest.approx(0.88)


def test_where_no_larger_budget_holds_without_multipliers_none_is_named(speaks_for_class_0, monkeypatch):
    problem = replace(problem_of(speaks_for_class_0), budget=Budget(0.75))
    plan = plan_from_scores(
        problem.units, {g.key: torch.arange(g.size, 0, -1.0) for g in problem.units}, problem.budget
    )
    left = answering(monkeypatch, 4.0, 1.0, 3.0, 3.0, 2.1)
    figures = guarded(problem, masks_of(problem, torch.ones(5)), plan, 2.0).figures
    assert figures.budget_without is None and left == []


def test_what_a_failed_guard_found_is_there_for_the_limit_that_it_names(speaks_for_class_0, monkeypatch, tmp_path):
    """Plans lose 4 points and then 3 at best; with a limit of 3 that one is solved again right after the first."""
    problem = replace(problem_of(speaks_for_class_0), state_dir=tmp_path)
    masks = masks_of(problem, torch.ones(5))
    plan = plan_from_scores(problem.units, weighed(masks, torch.ones(5)), problem.budget)
    left = answering(monkeypatch, 4.0, 3.0, *[5.0] * 5, *[5.0] * 4)
    with pytest.raises(UsageError, match="set max_class_drop to 3 or more"):
        guarded(problem, masks, plan, 2.0)
    assert left == []
    left = answering(monkeypatch, 4.0, 3.0, 1.0)
    figures = guarded(problem, masks, plan, 3.0).figures
    raised = torch.tensor([math.exp(RATE * 2), 1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(torch.tensor(figures.weights), raised / raised.mean())
    assert figures.largest == 3.0 and figures.budget_without == pytest.approx(0.88) and left == []


def test_a_guard_that_cannot_be_met_says_what_can(speaks_for_class_0):
    problem = problem_of(speaks_for_class_0)
    masks = masks_of(problem, torch.full((5,), 1e-3))
    plan = plan_from_scores(problem.units, {key: m.mean(0) for key, m in masks.items()}, problem.budget)
    with pytest.raises(UsageError) as caught:
        guarded(problem, masks, plan, LIMIT)
    assert str(caught.value) == (
        "No plan was found at 0.80 of the dense model's macs under which every class loses at most 12.5 points before "
        "training; set max_class_drop to 100 or more."
    )


def test_the_guard_is_measured_on_images_that_calibration_has_not_seen(speaks_for_class_0):
    problem = problem_of(speaks_for_class_0)
    assert list(unseen(problem, LIMIT).indices) == list(range(8, 16))
    everything = replace(problem, calibration=[(torch.zeros(16, 3, 32, 32), torch.zeros(16, dtype=torch.long))])
    assert list(unseen(everything, LIMIT).indices) == list(range(16))


def test_a_run_that_cannot_be_measured_is_refused_before_anything_is_computed(tmp_path):
    config = replace(tiny_run(str(tmp_path / "run")), max_class_drop=2.0)
    with pytest.raises(UsageError, match="max_class_drop is 2, for which 50 training images of each class are needed"):
        run_pipeline(config)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_the_method_stores_what_the_guard_came_to(tiny_vit):
    config = RunConfig(rounds=1, max_class_drop=100.0, data=DataConfig(batch_size=8), precision="fp32")
    calibration = [(torch.randn(8, 3, 32, 32), torch.arange(8) % 5)]
    problem = Problem(tiny_vit, find_units(tiny_vit), Noise(40), calibration, 5, Budget(0.5), config)
    figures = find_method("xpruner")(problem).figures
    assert figures["guard"]["weights"] == [1.0] * 5 and figures["guard"]["limit"] == 100.0
    assert figures["guard"]["images"] == 16 and -100 <= figures["guard"]["largest"] <= 100
    unguarded = replace(problem, config=replace(config, max_class_drop=None))
    assert "guard" not in find_method("xpruner")(unguarded).figures


def test_a_guarded_run_is_opened_with_what_its_guard_came_to(tmp_path, capsys):
    folder = tmp_path / "run"
    config = replace(
        tiny_run(str(folder)), max_class_drop=100.0, thresholds=ThresholdConfig(), masks=MaskConfig(),
        finetune=FinetuneConfig(epochs=0),
    )  # fmt: skip
    metrics = run_pipeline(config).metrics
    run = open_run(folder)
    assert (
        asdict(run.guard)
        == metrics["search"]["guard"]
        == json.loads((folder / "metrics.json").read_text())["search"]["guard"]
    )
    assert len(run.guard.drops) == 10 and audit_run(run).guard == run.guard
    show_result(metrics, folder)
    assert "The guard held: before training no class loses more than 100 points on 48 " in capsys.readouterr().out
