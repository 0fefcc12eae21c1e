"""Why units are kept and pruned, on two layers of which everything is known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import group

from xpruner.config import RunConfig, ThresholdConfig
from xpruner.explain.decision import Decision, cost_at, lowest_kept
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


def test_the_lowest_importance_kept_is_that_of_a_layer():
    plan = Plan({HEAD: [], HIDDEN: [0, 2]}, {HEAD: 2, HIDDEN: 4})
    assert lowest_kept(IMPORTANCE, plan) == {HIDDEN: 1.0}
    assert lowest_kept(IMPORTANCE, Plan({}, {})) == pytest.approx({HEAD: 0.2, HIDDEN: 0.1})


def test_a_unit_is_pruned_after_the_less_important_and_restored_after_the_more_important():
    """Unit 0 (1.0) is kept with unit 2 (2.0) and the head of 3.0; unit 3 (0.5) is restored alone, unit 1 (0.1) last."""
    plan = Plan.of(UNITS, KEEP)
    cost = {index: cost_at(IMPORTANCE, plan, UNITS, HIDDEN, index) for index in range(4)}
    assert cost == pytest.approx({0: 0.80, 2: 0.75, 3: 0.85, 1: 1.0})
    assert cost_at(IMPORTANCE, plan, UNITS, HEAD, 0) == pytest.approx(0.95)


def test_groups_that_a_plan_does_not_name_are_kept_whole():
    plan = Plan.of(UNITS, {HIDDEN: [0, 2]})
    assert cost_at(IMPORTANCE, plan, UNITS, HIDDEN, 3) == pytest.approx(0.95)
    assert cost_at(IMPORTANCE, plan, UNITS, HEAD, 0) == pytest.approx(0.90)


def test_a_kept_unit_has_a_rank_and_a_cost_below_which_it_would_be_pruned():
    kept = decided(run_of(), HIDDEN, 0)
    assert kept.kept and kept.lowest_kept == 1.0 and kept.kept_at == pytest.approx(0.80)
    assert kept.why == (
        "Kept: importance 1; 1 of the 2 hidden units kept in this layer has a higher one; it would be pruned below "
        "about 80 % of the dense model's cost."
    )
    assert "; none of the 2 hidden units" in decided(run_of(), HIDDEN, 2).why


def test_a_pruned_unit_has_a_cost_at_which_it_would_be_kept():
    pruned = decided(run_of(), HIDDEN, 3)
    assert not pruned.kept and pruned.kept_at == pytest.approx(0.85)
    assert pruned.why == (
        "Pruned: importance 0.5; the lowest kept in this layer is 1; it would be kept at about 85 % of the dense "
        "model's cost."
    )


def test_a_unit_may_be_kept_by_the_minimum_of_its_module_alone():
    run = run_of({HEAD: [0], HIDDEN: [0, 1, 2, 3]}, {**IMPORTANCE, HEAD: torch.tensor([0.05, 0.01])})
    assert "none of the 1 head units" in decided(run, HEAD, 0).why  # the pruned one is less important
    run = run_of({HEAD: [1], HIDDEN: [0, 2]}, {**IMPORTANCE, HEAD: torch.tensor([0.01, 0.05])})
    held = decided(run, HEAD, 1)
    assert held.kept_at is None
    assert held.why == (
        "Kept: importance 0.05; units of other layers with a higher one were pruned, but a module always keeps 1 head "
        "unit."
    )


def test_where_no_unit_is_kept_there_is_no_lowest_importance():
    """The block (0.7) is restored before unit 3: 10 MACs on top of the 80."""
    units = Units((*UNITS.groups, group(BLOCK, 1, macs=10.0)), 110.0, 10.0, (3, 8, 8))
    run = run_of({**KEEP, BLOCK: []}, {**IMPORTANCE, BLOCK: torch.tensor([0.7])}, units, budget="0.75")
    pruned = decided(run, BLOCK, 0)
    assert pruned.lowest_kept is None and pruned.kept_at == pytest.approx(90 / 110)
    assert pruned.why == (
        "Pruned: importance 0.7; no block unit of this layer is kept; it would be kept at about 82 % of the dense "
        "model's cost."
    )


def test_an_important_unit_that_was_pruned():
    keep = {HEAD: [1], HIDDEN: [0, 3]}
    in_rounds = decided(run_of(keep, rounds=5), HIDDEN, 2)
    assert in_rounds.why == (
        "Pruned in an early round, before importance was re-estimated: importance 2 at that time; the lowest kept in "
        "this layer is 0.5 now."
    )
    at_once = decided(run_of(keep), HIDDEN, 2)
    assert at_once.why == (
        "Pruned: importance 2, no lower than the lowest kept in this layer, 0.5; the unit did not fit into the rest of "
        "the budget."
    )
    assert in_rounds.kept_at is None and at_once.kept_at is None


def test_what_a_guard_decided_is_not_taken_for_an_early_round():
    keep = {HEAD: [1], HIDDEN: [0, 3]}
    run = run_of(keep, method="xpruner, guarded", rounds=5)
    forgotten, kept = decided(run, HIDDEN, 2), decided(run, HIDDEN, 0)
    assert forgotten.kept_at is None and kept.kept_at is None
    assert forgotten.why == (
        "Pruned by the guard of the classes, whose multipliers this run did not store: without them the importance is "
        "2, and the lowest kept in this layer is 0.5."
    )
    assert kept.why == "Kept: importance 1; none of the 2 hidden units kept in this layer has a higher one."
    known = decided(run_of(keep, method="xpruner, guarded", guard=GUARD, rounds=5), HIDDEN, 2)
    assert known.why.endswith("the unit did not fit into the rest of the budget.")


def test_learned_thresholds_hold_for_their_budget_alone():
    assert decided(run_of(thresholds=ThresholdConfig(steps=3)), HIDDEN, 3).kept_at is None
    ranked = run_of(thresholds=ThresholdConfig(steps=3, mode="global_rank"))
    assert decided(ranked, HIDDEN, 3).kept_at == pytest.approx(0.85)


def test_a_budget_that_was_asked_is_not_named_as_one_where_a_pruned_unit_would_be_kept():
    """With a cost of 85 of 100 there would have been room for unit 3, which the plan did without."""
    assert decided(run_of(budget="0.9"), HIDDEN, 3).kept_at is None
