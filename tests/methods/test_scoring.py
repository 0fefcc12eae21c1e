"""How scores share the budget among layers, against values computed by hand."""

import pytest
import torch
from methods_setup import tiny_problem
from tiny_models import group

from xpruner.config import SearchConfig
from xpruner.errors import UsageError
from xpruner.methods import find_method
from xpruner.methods._scoring import allocate, rank_in_scopes, rank_shares
from xpruner.units import Units

UNITS = Units(
    (
        group("blocks.0.attn:head", 2, macs=10, params=5),
        group("blocks.0.mlp:hidden", 4, macs=2, params=1),
        group("blocks.1.mlp:hidden", 4, macs=2, params=1),
    ),
    100, 50, (3, 8, 8),
)  # fmt: skip
SCORES = {
    "blocks.0.attn:head": torch.tensor([20.0, 10.0]),
    "blocks.0.mlp:hidden": torch.tensor([4.0, 3.0, 2.0, 1.0]),
    "blocks.1.mlp:hidden": torch.tensor([0.1, 0.2, 0.3, 0.4]),
}


def lists(scores: dict) -> list[list[float]]:
    return [[round(value, 6) for value in score.tolist()] for score in scores.values()]


def test_uniform_ranks_within_each_group():
    assert lists(allocate(SCORES, UNITS, "uniform")) == [[1, 0.5], [1, 0.75, 0.5, 0.25], [0.25, 0.5, 0.75, 1]]


def test_global_is_score_per_cost():
    assert lists(allocate(SCORES, UNITS, "global")) == [[2, 1], [2, 1.5, 1, 0.5], [0.05, 0.1, 0.15, 0.2]]
    assert lists(allocate(SCORES, UNITS, "global", "params"))[0] == [4, 2]


def test_block_divides_by_the_sum_over_the_block_first():
    """Block 0 sums to 30 + 10 = 40, block 1 to 1."""
    expected = [[20 / 400, 10 / 400], [4 / 80, 3 / 80, 2 / 80, 1 / 80], [0.05, 0.1, 0.15, 0.2]]
    for found, wanted in zip(lists(allocate(SCORES, UNITS, "block")), expected, strict=True):
        assert found == pytest.approx(wanted)


def test_a_block_without_any_score_stays_zero():
    zeros = {key: torch.zeros_like(score) for key, score in SCORES.items()}
    assert lists(allocate(zeros, UNITS, "block")) == lists(zeros)


def test_scores_below_zero_are_ranked_and_never_compared_per_cost():
    below = SCORES | {"blocks.1.mlp:hidden": torch.tensor([0.1, -0.2, 0.3, 0.0])}
    assert lists(allocate(below, UNITS, "uniform"))[2] == [0.75, 0.25, 1, 0.5]
    for allocation in ("global", "block"):
        with pytest.raises(UsageError, match=r"'blocks.1.mlp:hidden' fall to -0\.2, .* use allocation uniform"):
            allocate(below, UNITS, allocation)


def test_another_allocation_is_refused():
    with pytest.raises(UsageError, match="did you mean 'global'"):
        allocate(SCORES, UNITS, "globl")


def test_units_are_ranked_among_their_like_alone():
    scores = {
        "a.mlp:hidden": torch.tensor([1.0, 2.0]),
        "b.mlp:hidden": torch.tensor([3.0, 0.5]),
        "c.mlp:hidden": torch.tensor([9.0, 8.0]),
    }
    units = Units(
        (group("a.mlp:hidden", 2), group("b.mlp:hidden", 2), group("c.mlp:hidden", 2, macs=5)), 9, 9, (3, 8, 8)
    )
    shares = rank_in_scopes(scores, units, lambda each: each.macs)
    assert shares["a.mlp:hidden"].tolist() == [0.5, 0.75]
    assert shares["b.mlp:hidden"].tolist() == [1.0, 0.25]
    assert shares["c.mlp:hidden"].tolist() == [1.0, 0.5]


def test_ties_are_ranked_by_their_order():
    assert rank_shares(torch.tensor([1.0, 1.0, 0.0])).tolist() == pytest.approx([2 / 3, 1, 1 / 3])


@pytest.mark.parametrize(("allocation", "written"), [("own", "l2, global"), ("uniform", "l2, uniform")])
def test_the_plan_says_which_allocation(allocation, written):
    problem = tiny_problem("l2")
    problem.config.search = SearchConfig(allocation=allocation)
    assert find_method("l2")(problem).plan.method == written
