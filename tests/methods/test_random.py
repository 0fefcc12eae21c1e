from dataclasses import replace

import pytest
import torch
from methods_setup import tiny_problem

from xpruner.methods import find_method
from xpruner.methods._scoring import allocate
from xpruner.methods.random import random
from xpruner.plan.budget import Budget


@pytest.mark.parametrize("resource", ["macs", "params"])
def test_worth_per_cost_is_uniform_for_heads_and_hidden_units_alike(resource):
    problem = replace(tiny_problem("random"), budget=Budget(0.5, resource))
    per_cost = allocate(random(problem), problem.units, "global", resource)
    drawn = torch.cat(list(per_cost.values())).sort().values
    assert drawn[0] >= 0
    assert drawn[-1] < 1
    assert (drawn - torch.linspace(0, 1, len(drawn))).abs().max() < 0.1
    heads = torch.cat([per_cost[group.key] for group in problem.units if group.kind == "head"])
    assert 0.2 < heads.mean() < 0.8


def test_the_seed_decides():
    plans = [find_method("random")(tiny_problem("random", seed=seed)).plan.keep for seed in (3, 3, 4)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_by_itself_it_keeps_the_same_share_of_every_layer():
    plan = find_method("random")(tiny_problem("random")).plan
    shares = [len(plan.keep[key]) for key in ("blocks.0.mlp:hidden", "blocks.1.mlp:hidden")]
    assert abs(shares[0] - shares[1]) <= 1
