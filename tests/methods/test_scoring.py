"""How scores share the budget among layers, against values computed by hand."""

import pytest
import torch
from methods_setup import tiny_problem
from tiny_models import group

from xpruner.config import SearchConfig
from xpruner.errors import UsageError
from xpruner.methods import find_method
from xpruner.methods.scoring import allocate, rank_shares
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


def test_another_allocation_is_refused():
    with pytest.raises(UsageError, match="did you mean 'global'"):
        allocate(SCORES, UNITS, "globl")


def test_ties_are_ranked_by_their_order():
    assert rank_shares(torch.tensor([1.0, 1.0, 0.0])).tolist() == pytest.approx([2 / 3, 1, 1 / 3])


@pytest.mark.parametrize(("allocation", "written"), [("own", "l2, global"), ("uniform", "l2, uniform")])
def test_the_plan_says_which_allocation(allocation, written):
    problem = tiny_problem("l2")
    problem.config.search = SearchConfig(allocation=allocation)
    assert find_method("l2")(problem).plan.method == written
