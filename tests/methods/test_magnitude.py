"""Norms of the weights of hand-made units."""

import torch
from methods_setup import tiny_problem

from xpruner.methods.magnitude import l1, l2


def test_norms_of_the_rows_and_columns_of_a_unit(tiny_vit):
    """Hidden unit 0: a row of 24 twos and a bias of 1 in fc1, a column of 24 minus ones in fc2."""
    with torch.no_grad():
        mlp = tiny_vit.blocks[0].mlp
        mlp.fc1.weight[0], mlp.fc1.bias[0], mlp.fc2.weight[:, 0] = 2.0, 1.0, -1.0
    problem = tiny_problem("l1", tiny_vit)
    assert l1(problem)["blocks.0.mlp:hidden"][0].item() == 24 * 2 + 1 + 24
    assert l2(problem)["blocks.0.mlp:hidden"][0].item() == torch.tensor(24.0 * 4 + 1 + 24).sqrt().item()
