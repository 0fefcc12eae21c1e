"""Magnitudes of the weights of hand-made units, and how they share a budget."""

import pytest
import torch
from methods_setup import tiny_problem
from tiny_models import VIT, build

from xpruner.methods._scoring import allocate
from xpruner.methods.magnitude import l1, l2


def test_sums_over_the_rows_and_columns_of_a_unit(tiny_vit):
    """Hidden unit 0: a row of 24 twos and a bias of 1 in fc1, a column of 24 minus ones in fc2."""
    with torch.no_grad():
        mlp = tiny_vit.blocks[0].mlp
        mlp.fc1.weight[0], mlp.fc1.bias[0], mlp.fc2.weight[:, 0] = 2.0, 1.0, -1.0
    problem = tiny_problem("l1", tiny_vit)
    assert l1(problem)["blocks.0.mlp:hidden"][0].item() == 24 * 2 + 1 + 24
    assert l2(problem)["blocks.0.mlp:hidden"][0].item() == 24 * 4 + 1 + 24


@pytest.mark.parametrize("score", [l1, l2])
def test_a_heads_size_alone_makes_it_neither_dear_nor_cheap(score):
    """Where all weights are of one size, a head is worth as much per cost as a hidden unit, however large it is."""
    model = build("vit_tiny_patch16_224", **VIT | {"embed_dim": 48})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    problem = tiny_problem(score.__name__, model)
    shared = allocate(score(problem), problem.units, "global", "params")
    heads, hidden = shared["blocks.0.attn:head"], shared["blocks.0.mlp:hidden"]
    assert heads.tolist() == pytest.approx([hidden.mean().item()] * 3)
