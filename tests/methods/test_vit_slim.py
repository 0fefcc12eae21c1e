"""ViT-Slim: the penalty, the ranks, the folding of gates into weights, and what the search hands back."""

import copy
from dataclasses import replace

import pytest
import torch
from methods_setup import tiny_problem
from tiny_models import VIT, build, group, tiny

from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs
from xpruner.methods import find_method, vit_slim
from xpruner.plan.budget import Budget
from xpruner.units import Units, find_units
from xpruner.units.gates import gating

KINDS = ("qk", "v", "hidden")


def some_units() -> Units:
    sizes = {"a.attn:qk": 2, "a.mlp:hidden": 2, "b.attn:qk": 1, "b.mlp:hidden": 2}
    return Units(tuple(group(key, size) for key, size in sizes.items()), 10, 10, (3, 1, 1))


SOME_GATES = {
    "a.attn:qk": torch.tensor([0.5, -3.0]),
    "a.mlp:hidden": torch.tensor([1.0, 2.0]),
    "b.attn:qk": torch.tensor([1.0]),
    "b.mlp:hidden": torch.tensor([-4.0, 0.0]),
}


def test_attention_and_mlps_have_penalties_of_their_own():
    assert vit_slim.penalty(SOME_GATES, some_units()).item() == pytest.approx(2e-4 * 4.5 + 5e-5 * 7.0)


def test_units_are_ranked_by_magnitude_among_all_of_their_kind():
    ranks = vit_slim.ranked_by_kind(SOME_GATES, some_units())
    assert {key: rank.tolist() for key, rank in ranks.items()} == {
        "a.attn:qk": pytest.approx([1 / 3, 1.0]),
        "b.attn:qk": pytest.approx([2 / 3]),
        "a.mlp:hidden": [0.5, 0.75],
        "b.mlp:hidden": [1.0, 0.25],
    }


@pytest.mark.parametrize("name", ["vit", "deit", "swin"])
def test_folded_gates_compute_what_gates_did(name):
    model = tiny(name)
    units = find_units(model, [*KINDS, "head"])
    gates = {g.key: torch.randn(g.size) for g in units}
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), gating(model, units, gates):
        gated = model(images)
    vit_slim.fold(model, units, gates)
    with torch.no_grad():
        assert torch.allclose(model(images), gated, rtol=1e-4, atol=1e-4)


def test_a_gate_on_queries_goes_into_their_rows_and_bias_and_into_nothing_else(tiny_vit):
    attention = tiny_vit.blocks[0].attn
    before = {name: tensor.clone() for name, tensor in tiny_vit.state_dict().items()}
    weight, bias = attention.qkv.weight.clone(), attention.qkv.bias.clone()
    gates = torch.arange(8.0)  # three heads of eight dimensions
    vit_slim.fold(tiny_vit, find_units(tiny_vit, ["qk"]), {"blocks.0.attn:qk": gates})
    assert torch.equal(attention.qkv.weight[:24], weight[:24] * gates.repeat(3)[:, None])
    assert torch.equal(attention.qkv.bias[:24], bias[:24] * gates.repeat(3))
    assert torch.equal(attention.qkv.weight[24:], weight[24:]) and torch.equal(attention.qkv.bias[24:], bias[24:])
    changed = [name for name, tensor in tiny_vit.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"]


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_the_cut_alone_changes_the_trained_and_gated_network(name, monkeypatch):
    """The pruned model computes what the trained copy did under its learned gates times the plan's mask."""
    seen = {}
    fold = vit_slim.fold

    def spy(model, units, gates):
        seen.update(model=copy.deepcopy(model).eval(), gates={key: gate.detach() for key, gate in gates.items()})
        fold(model, units, gates)

    monkeypatch.setattr(vit_slim, "fold", spy)
    monkeypatch.setattr(vit_slim, "GATE_LR", 0.05)
    problem = tiny_problem("vit_slim", tiny(name), steps=4)
    outcome = find_method("vit_slim")(problem)
    masked = {key: seen["gates"][key] * mask for key, mask in outcome.plan.gates().items()}
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        with gating(seen["model"], problem.units, masked):
            expected = seen["model"](images)
        assert torch.allclose(outcome.model(images), expected, rtol=1e-4, atol=1e-4)
    assert torch.cat(list(seen["gates"].values())).std() > 0.01


def test_the_same_share_of_every_kind_stays(tiny_vit):
    plan = find_method("vit_slim")(tiny_problem("vit_slim", tiny_vit, budget=0.7, steps=2)).plan
    shares = []
    for kind in KINDS:
        keys = [key for key in plan.keep if key.endswith(f":{kind}")]
        shares.append(sum(len(plan.keep[key]) for key in keys) / sum(plan.sizes[key] for key in keys))
    assert max(shares) - min(shares) < 1 / 16  # a dimension of one of two layers


def test_gates_that_nothing_reads_shrink_and_others_less():
    """Adam carries a gate that only the penalty moves by its rate in each update."""
    model = build("vit_tiny_patch16_224", **VIT)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight[48:] = block.mlp.fc2.weight[:, 48:] = 0
            block.mlp.fc1.bias[48:] = 0
    outcome = find_method("vit_slim")(tiny_problem("vit_slim", model, steps=8))
    assert max(max(outcome.plan.keep[f"blocks.{block}.mlp:hidden"]) for block in (0, 1)) < 48


def test_heads_need_not_go_for_a_budget_of_a_third():
    model = build("vit_tiny_patch16_224", **VIT | {"embed_dim": 64, "num_heads": 2, "depth": 4})
    outcome = find_method("vit_slim")(tiny_problem("vit_slim", model, budget=0.3, steps=1))
    assert 0.297 <= count_macs(outcome.model) / count_macs(model) <= 0.3
    assert outcome.model.blocks[0].attn.num_heads == 2


def test_a_budget_out_of_reach_is_refused_before_anything_is_trained(tiny_vit):
    made = []
    problem = replace(
        tiny_problem("vit_slim", tiny_vit), budget=Budget(0.01), on_step=lambda step, _: made.append(step)
    )
    with pytest.raises(UsageError, match="out of reach"):
        find_method("vit_slim")(problem)
    assert not made


def test_gates_that_no_weights_can_hold_are_refused(tiny_vit):
    problem = replace(tiny_problem("vit_slim", tiny_vit), units=find_units(tiny_vit, ["hidden", "block"]))
    with pytest.raises(UsageError, match=r"block units of 'blocks\.0'"):
        find_method("vit_slim")(problem)


def test_gates_in_front_of_a_grouped_convolution_are_refused():
    model = torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict({"consumer": torch.nn.Conv2d(16, 4, 1, groups=2)})})
    problem = replace(tiny_problem("vit_slim"), model=model, units=Units((group("mlp:hidden", 16),), 16, 16, (3, 1, 1)))
    with pytest.raises(UsageError, match="hidden units of 'mlp'"):
        find_method("vit_slim")(problem)
