from dataclasses import replace

import pytest
import torch
from methods_setup import scopes_cut_by_score, tiny_problem
from tiny_models import SWIN, VIT, build
from torch.nn import functional as F

from xpruner.methods import find_method
from xpruner.methods.isomorphic import taylor_of_weights
from xpruner.plan.budget import Budget
from xpruner.units import find_units


def test_a_score_is_the_mean_over_the_tensors_of_the_sums_of_weight_times_gradient():
    torch.manual_seed(0)
    model = build("vit_tiny_patch16_224", **VIT)
    problem = tiny_problem("isomorphic", model)
    scores = taylor_of_weights(problem)

    images, labels = problem.calibration[0]
    F.cross_entropy(model(images), labels, reduction="sum").backward()
    mlp = model.blocks[1].mlp
    products = [(p.detach() * p.grad).abs() for p in (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight)]
    hidden = (products[0].sum(1) + products[1] + products[2].sum(0)) / 3
    torch.testing.assert_close(scores["blocks.1.mlp:hidden"].float(), hidden)
    attn = model.blocks[0].attn
    qkv, bias, proj = ((p.detach() * p.grad).abs() for p in (attn.qkv.weight, attn.qkv.bias, attn.proj.weight))
    heads = qkv.view(3, 3, -1).sum((0, 2)) + bias.view(3, 3, -1).sum((0, 2)) + proj.T.reshape(3, -1).sum(1)
    torch.testing.assert_close(scores["blocks.0.attn:head"].float(), heads / 3)
    assert scores["stream:embed"].shape == (24,)


def test_batches_add_up():
    torch.manual_seed(0)
    problem = tiny_problem("isomorphic")
    images, labels = problem.calibration[0]
    parts = [(images[:7], labels[:7]), (images[7:], labels[7:])]
    whole, split = taylor_of_weights(problem), taylor_of_weights(replace(problem, calibration=parts))
    for key, score in whole.items():
        torch.testing.assert_close(split[key], score, rtol=1e-4, atol=1e-6)


def test_the_same_share_of_heads_hidden_units_and_channels_goes():
    torch.manual_seed(0)
    problem = tiny_problem("isomorphic", build("vit_tiny_patch16_224", **VIT | dict(num_heads=6, depth=6)))
    keep = find_method("isomorphic")(problem).plan.keep
    shares = {}
    for kind in ("head", "hidden", "embed"):
        groups = [each for each in problem.units if each.kind == kind]
        shares[kind] = sum(len(keep[each.key]) for each in groups) / sum(each.size for each in groups)
    assert shares["embed"] == pytest.approx(shares["hidden"], abs=2 / 24)
    assert shares["head"] == pytest.approx(shares["hidden"], abs=2 / 24)


def test_models_without_a_stream_to_cut_and_hierarchical_ones_are_pruned_too():
    torch.manual_seed(0)
    swin = build("swin_tiny_patch4_window7_224", **SWIN)
    problem = tiny_problem("isomorphic", swin)
    assert {each.kind for each in problem.units} == {"head", "hidden", "embed"}
    plain = replace(problem, units=find_units(swin, ("head", "hidden")), budget=Budget(0.6))
    for each in (problem, plain):
        plan = find_method("isomorphic")(each).plan
        assert plan.cost["macs_pruned"] == pytest.approx(each.budget.target(each.units), rel=0.01)
        found = scopes_cut_by_score(plan, each.units, taylor_of_weights(each), lambda g: (g.kind, g.size, g.macs))
        assert all(found.values()) and {kind for kind, *_ in found} == {g.kind for g in each.units}
