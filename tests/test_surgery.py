import pytest
import torch
from tiny_models import MODELS, some_plan, tiny, units_of
from torch import nn
from torch.nn import functional as F

from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs, count_params
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units
from xpruner.units.gates import gating
from xpruner.units.modules.branch import ConstantBranch


def test_heads_of_a_vit_are_cut_with_all_that_depends_on_them(tiny_vit):
    dense = tiny_vit.blocks[0].attn
    plan = Plan.of(units_of("vit"), {"blocks.0.attn:head": [0, 2]})
    attn = apply(tiny_vit, plan).blocks[0].attn
    assert (attn.num_heads, attn.head_dim, attn.attn_dim, attn.scale) == (2, 8, 16, dense.scale)
    assert (attn.qkv.in_features, attn.qkv.out_features) == (24, 3 * 16)
    assert (attn.proj.in_features, attn.proj.out_features) == (16, 24)
    rows = torch.cat([torch.arange(part + head, part + head + 8) for part in (0, 24, 48) for head in (0, 16)])
    assert torch.equal(attn.qkv.weight, dense.qkv.weight[rows])
    assert torch.equal(attn.qkv.bias, dense.qkv.bias[rows])
    assert torch.equal(attn.proj.weight, torch.cat([dense.proj.weight[:, :8], dense.proj.weight[:, 16:]], 1))
    assert torch.equal(attn.proj.bias, dense.proj.bias)


def test_heads_of_a_swin_are_cut_with_their_position_biases(tiny_swin):
    dense = tiny_swin.layers[1].blocks[1].attn
    plan = Plan.of(units_of("swin"), {"layers.1.blocks.1.attn:head": [1, 3]})
    attn = apply(tiny_swin, plan).layers[1].blocks[1].attn
    assert (attn.num_heads, attn.scale) == (2, dense.scale)
    assert torch.equal(attn.relative_position_bias_table, dense.relative_position_bias_table[:, [1, 3]])
    assert (attn.qkv.in_features, attn.qkv.out_features) == (24, 3 * 12)
    assert (attn.proj.in_features, attn.proj.out_features) == (12, 24)
    assert torch.equal(attn.proj.weight, dense.proj.weight.view(24, 4, 6)[:, [1, 3]].flatten(1))


def test_hidden_units_are_cut(tiny_vit):
    dense = tiny_vit.blocks[1].mlp
    mlp = apply(tiny_vit, Plan.of(units_of("vit"), {"blocks.1.mlp:hidden": [7, 90, 3]})).blocks[1].mlp
    assert (mlp.fc1.in_features, mlp.fc1.out_features, mlp.fc2.in_features, mlp.fc2.out_features) == (24, 3, 3, 24)
    assert torch.equal(mlp.fc1.weight, dense.fc1.weight[[3, 7, 90]])
    assert torch.equal(mlp.fc1.bias, dense.fc1.bias[[3, 7, 90]])
    assert torch.equal(mlp.fc2.weight, dense.fc2.weight[:, [3, 7, 90]])
    assert torch.equal(mlp.fc2.bias, dense.fc2.bias)


def test_an_output_gate_is_cut_with_its_heads(tiny_vit):
    for block in tiny_vit.blocks:
        block.attn.gate = nn.Linear(24, 24)
    units = find_units(tiny_vit)
    plan = Plan.of(units, {"blocks.0.attn:head": [1]})
    pruned = apply(tiny_vit, plan)
    images = torch.randn(2, 3, 32, 32)
    assert units["blocks.0.attn:head"].params == 4 * 8 * (24 + 1) + 8 * 24
    assert torch.equal(pruned.blocks[0].attn.gate.weight, tiny_vit.blocks[0].attn.gate.weight[8:16])
    assert pruned.blocks[0].attn.gate.out_features == 8
    with gating(tiny_vit, units, plan.gates()):
        torch.testing.assert_close(pruned(images), tiny_vit(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_branch_without_units_becomes_its_bias(name):
    model, units = tiny(name), units_of(name)
    attn, mlp = units.groups[:2]
    plan = Plan.of(units, {attn.key: [], mlp.key: []})
    pruned = apply(model, plan)
    for group in (attn, mlp):
        branch = pruned.get_submodule(group.module)
        assert isinstance(branch, ConstantBranch)
        assert torch.equal(branch.bias, model.get_submodule(group.consumer).bias)
    assert count_macs(pruned) == plan.cost["macs_pruned"]
    assert count_params(pruned) == plan.cost["params_pruned"]
    assert [group.key for group in find_units(pruned)] == [group.key for group in units][2:]


def test_a_branch_without_units_and_without_bias_is_zero():
    pruned = apply(tiny("vit_without_biases"), Plan.of(units_of("vit_without_biases"), {"blocks.0.mlp:hidden": []}))
    assert torch.equal(pruned.blocks[0].mlp(torch.randn(2, 17, 24)), torch.zeros(2, 17, 24))


@pytest.mark.parametrize("name", MODELS)
def test_counted_costs_are_the_plans(name):
    units = units_of(name)
    plan = some_plan(units)
    pruned = apply(tiny(name), plan)
    assert count_macs(pruned) == plan.cost["macs_pruned"] < plan.cost["macs_dense"] == units.total_macs
    assert count_params(pruned) == plan.cost["params_pruned"] < plan.cost["params_dense"] == units.total_params
    assert [group.size for group in find_units(pruned)] == [len(plan.keep[group.key]) for group in units]


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_works(name):
    units = units_of(name)
    model = apply(tiny(name), some_plan(units)).train()
    images, labels = torch.randn(4, *units.input_size), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(1)  # of the paths that are dropped, the same ones each time
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    optimizer.step()
    torch.manual_seed(1)
    assert F.cross_entropy(model(images), labels) < loss


def test_an_empty_branch_trains_and_needs_no_norm(tiny_vit):
    model = apply(tiny_vit, Plan.of(units_of("vit"), {"blocks.0.attn:head": [], "blocks.1.mlp:hidden": []})).train()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == {"blocks.0.norm1.weight", "blocks.0.norm1.bias", "blocks.1.norm2.weight", "blocks.1.norm2.bias"}
    assert model.blocks[0].attn.bias.grad.abs().min() > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_model_can_be_pruned_again(name):
    model, units = tiny(name), units_of(name)
    first = some_plan(units)
    first.keep[units.groups[2].key] = []
    once = apply(model, first)
    second = some_plan(find_units(once))
    second.keep[units.groups[1].key] = []
    twice = apply(once, second)
    at_once = apply(model, second.after(first))
    assert str(twice) == str(at_once)
    for (path, a), (other, b) in zip(twice.state_dict().items(), at_once.state_dict().items(), strict=True):
        assert path == other and torch.equal(a, b)
    images = torch.randn(2, *units.input_size)
    assert torch.equal(twice(images), at_once(images))


def test_the_cost_of_pruning_twice_is_the_cost_of_pruning_at_once(tiny_swin):
    first = some_plan(units_of("swin"))
    once = apply(tiny_swin, first)
    both = some_plan(find_units(once)).after(first)
    assert both.cost == Plan.of(units_of("swin"), both.keep).cost


def test_a_plan_that_keeps_all_changes_nothing(tiny_swin):
    plan = Plan.of(units_of("swin"), {group.key: range(group.size) for group in units_of("swin")})
    pruned = apply(tiny_swin, plan)
    assert all(torch.equal(a, b) for a, b in zip(pruned.parameters(), tiny_swin.parameters(), strict=True))


def test_the_model_is_copied_unless_asked_otherwise(tiny_vit):
    plan = Plan.of(units_of("vit"), {"blocks.0.attn:head": [1], "blocks.1.attn:head": []})
    pruned = apply(tiny_vit, plan)
    assert (tiny_vit.blocks[0].attn.num_heads, pruned.blocks[0].attn.num_heads) == (3, 1)
    assert apply(tiny_vit, plan, inplace=True) is tiny_vit
    assert tiny_vit.blocks[0].attn.num_heads == 1
    assert isinstance(tiny_vit.blocks[1].attn, ConstantBranch)


def test_frozen_parameters_stay_frozen(tiny_swin):
    attn = tiny_swin.layers[0].blocks[0].attn
    for parameter in (attn.qkv.weight, attn.relative_position_bias_table):
        parameter.requires_grad_(False)
    pruned = apply(tiny_swin, some_plan(units_of("swin"))).layers[0].blocks[0].attn
    trainable = {name: parameter.requires_grad for name, parameter in pruned.named_parameters()}
    assert trainable == {
        "relative_position_bias_table": False,
        "qkv.weight": False,
        "qkv.bias": True,
        "proj.weight": True,
        "proj.bias": True,
    }


@pytest.mark.parametrize("inplace", [True, False])
def test_a_plan_for_another_model_is_refused_before_anything_is_cut(tiny_vit, inplace):
    plan = Plan.of(units_of("vit"), {"blocks.0.attn:head": [0], "blocks.1.attn:head": [0]})
    plan.sizes["blocks.1.attn:head"] = 4
    with pytest.raises(UsageError, match=r"made for 4 units in 'blocks\.1\.attn:head' but the model has 3"):
        apply(tiny_vit, plan, inplace=inplace)
    assert tiny_vit.blocks[0].attn.num_heads == 3


def test_a_plan_applied_twice_is_refused(tiny_vit):
    plan = Plan.of(units_of("vit"), {"blocks.0.attn:head": [0]})
    with pytest.raises(UsageError, match=r"made for 3 units in 'blocks\.0\.attn:head' but the model has 1"):
        apply(apply(tiny_vit, plan), plan)


def test_a_gated_model_is_refused_as_its_gates_would_act_twice(tiny_vit):
    units = find_units(tiny_vit)
    plan = Plan.of(units, {"blocks.0.mlp:hidden": range(8)})
    with (
        gating(tiny_vit, units, plan.gates()),
        pytest.raises(UsageError, match="The model is gated; apply the plan after"),
    ):
        apply(tiny_vit, plan)
    assert apply(tiny_vit, plan).blocks[0].mlp.fc1.out_features == 8
