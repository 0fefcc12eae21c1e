"""Why units stay and go, on two layers of which everything is known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import group

from xpruner.config import RunConfig, ThresholdConfig
from xpruner.explain.decision import Decision, cost_at, thresholds
from xpruner.methods.xpruner.guard import GuardFigures
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.run.finished import FinishedRun
from xpruner.units import Units

HEAD, HIDDEN, BLOCK = "a.attn:head", "a.mlp:hidden", "a:block"
UNITS = Units((group(HEAD, 2, macs=10.0), group(HIDDEN, 4, macs=5.0)), 100.0, 10.0, (3, 8, 8))
IMPORTANCE = {HEAD: torch.tensor([0.2, 3.0]), HIDDEN: torch.tensor([1.0, 0.1, 2.0, 0.5])}
KEEP = {HEAD: [1], HIDDEN: [0, 2]}
"""At 80 of 100 MACs, of which 60 belong to no unit."""
GUARD = GuardFigures(2.0, 1.0, [1.0], [1.0, 3.0], 10, 0.0, 3.0, 0.8, None)


@pytest.fixture(autouse=True)
def few_are_kept_at_least(monkeypatch):
    monkeypatch.setattr("xpruner.plan.budget.MINIMA", {"head": 1, "hidden": 1, "block": 0})


def run_of(keep=KEEP, importance=IMPORTANCE, units=UNITS, method="xpruner", guard=None, **changes) -> FinishedRun:
    """Returns a run of which what is read from files is given."""
    run = FinishedRun(Path("run"), replace(RunConfig(rounds=1, budget="0.8"), **changes))
    plan = Plan.of(units, keep, method, Budget(0.8))
    vars(run).update(units=units, plan=plan, importance=importance, guard=guard)
    return run


def decided(run: FinishedRun, key: str, index: int) -> Decision:
    return Decision(run, run.units[key], index)


def test_a_threshold_is_the_least_importance_that_stayed():
    plan = Plan({HEAD: [], HIDDEN: [0, 2]}, {HEAD: 2, HIDDEN: 4})
    assert thresholds(IMPORTANCE, plan) == {HIDDEN: 1.0}
    assert thresholds(IMPORTANCE, Plan({}, {})) == pytest.approx({HEAD: 0.2, HIDDEN: 0.1})


def test_a_unit_goes_with_what_counts_less_and_comes_back_with_what_counts_more():
    """Unit 0 (1.0) stays with unit 2 (2.0) and the head of 3.0; unit 3 (0.5) comes back alone, unit 1 (0.1) last."""
    plan = Plan.of(UNITS, KEEP)
    cost = {index: cost_at(IMPORTANCE, plan, UNITS, HIDDEN, index) for index in range(4)}
    assert cost == pytest.approx({0: 0.80, 2: 0.75, 3: 0.85, 1: 1.0})
    assert cost_at(IMPORTANCE, plan, UNITS, HEAD, 0) == pytest.approx(0.95)


def test_groups_that_a_plan_does_not_name_stay_whole():
    plan = Plan.of(UNITS, {HIDDEN: [0, 2]})
    assert cost_at(IMPORTANCE, plan, UNITS, HIDDEN, 3) == pytest.approx(0.95)
    assert cost_at(IMPORTANCE, plan, UNITS, HEAD, 0) == pytest.approx(0.90)


def test_a_unit_that_stays_is_told_its_place_and_when_it_would_go():
    kept = decided(run_of(), HIDDEN, 0)
    assert kept.kept and kept.threshold == 1.0 and kept.stays_at == pytest.approx(0.80)
    assert kept.why == (
        "It stays: its importance is 1, and of the 2 hidden units of its layer that stay 1 counts more; below about "
        "80 % of the dense model's cost it would go."
    )
    assert "that stay none counts more" in decided(run_of(), HIDDEN, 2).why


def test_a_unit_that_went_is_told_when_it_would_have_stayed():
    gone = decided(run_of(), HIDDEN, 3)
    assert not gone.kept and gone.stays_at == pytest.approx(0.85)
    assert gone.why == (
        "It went: its importance is 0.5, and the 2 hidden units of its layer that stay have 1 and more; at about 85 % "
        "of the dense model's cost it would have stayed."
    )


def test_a_unit_held_by_the_least_of_its_module_is_told_so():
    run = run_of({HEAD: [0], HIDDEN: [0, 1, 2, 3]}, {**IMPORTANCE, HEAD: torch.tensor([0.05, 0.01])})
    assert "none counts more" in decided(run, HEAD, 0).why  # the one that went counts less
    run = run_of({HEAD: [1], HIDDEN: [0, 2]}, {**IMPORTANCE, HEAD: torch.tensor([0.01, 0.05])})
    held = decided(run, HEAD, 1)
    assert held.stays_at is None
    assert held.why == (
        "It stays because 1 head of a module always stay: its importance is 0.05, and units of other layers that count "
        "more went."
    )


def test_where_no_unit_stayed_there_is_no_threshold():
    """The block (0.7) comes back before unit 3 does: 10 MACs on top of the 80."""
    units = Units((*UNITS.groups, group(BLOCK, 1, macs=10.0)), 110.0, 10.0, (3, 8, 8))
    run = run_of({**KEEP, BLOCK: []}, {**IMPORTANCE, BLOCK: torch.tensor([0.7])}, units, budget="0.75")
    gone = decided(run, BLOCK, 0)
    assert gone.threshold is None and gone.stays_at == pytest.approx(90 / 110)
    assert gone.why == (
        "It went, and no block unit of its layer stayed: its importance is 0.7; at about 82 % of the dense model's "
        "cost it would have stayed."
    )


def test_a_unit_that_counts_enough_and_went():
    keep = {HEAD: [1], HIDDEN: [0, 3]}
    in_rounds = decided(run_of(keep, rounds=5), HIDDEN, 2)
    assert in_rounds.why.startswith("It went in an early round, before the others were looked at anew: its importance")
    at_once = decided(run_of(keep), HIDDEN, 2)
    assert at_once.why.endswith("it did not fit into what was left of the budget.")
    assert in_rounds.stays_at is None and at_once.stays_at is None


def test_what_a_guard_decided_is_not_said_to_be_an_early_round():
    keep = {HEAD: [1], HIDDEN: [0, 3]}
    run = run_of(keep, method="xpruner, guarded", rounds=5)
    forgotten, kept = decided(run, HIDDEN, 2), decided(run, HIDDEN, 0)
    assert forgotten.stays_at is None and kept.stays_at is None
    assert forgotten.why == (
        "It went as the guard of the classes decided, whose multipliers this run did not keep: without them its "
        "importance is 2, and the 2 hidden units of its layer that stay have 0.5 and more."
    )
    assert (
        kept.why == "It stays: its importance is 1, and of the 2 hidden units of its layer that stay none counts more."
    )
    known = decided(run_of(keep, method="xpruner, guarded", guard=GUARD, rounds=5), HIDDEN, 2)
    assert known.why.endswith("it did not fit into what was left of the budget.")


def test_learned_thresholds_say_nothing_of_other_budgets():
    assert decided(run_of(thresholds=ThresholdConfig(steps=3)), HIDDEN, 3).stays_at is None
    ranked = run_of(thresholds=ThresholdConfig(steps=3, mode="global_rank"))
    assert decided(ranked, HIDDEN, 3).stays_at == pytest.approx(0.85)


def test_a_budget_that_was_asked_is_not_named_as_one_where_it_would_have_stayed():
    """With a cost of 85 of 100 there would have been room for unit 3, which the plan did without."""
    assert decided(run_of(budget="0.9"), HIDDEN, 3).stays_at is None
