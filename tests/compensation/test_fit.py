import copy

import pytest
import torch
from tiny_models import MODELS, footprint, some_plan, tiny, units_of
from torch import nn

from xpruner.compensation import solve
from xpruner.compensation.fit import compensate
from xpruner.config import CompensateConfig
from xpruner.errors import XPrunerError
from xpruner.plan.plan import Plan
from xpruner.runtime.hooks import capture_inputs
from xpruner.surgery import apply
from xpruner.units import KINDS, find_units
from xpruner.units.modules.branch import ConstantBranch

FITTED = ["affine", "sequential"]
MODES = ["mean", *FITTED]


@pytest.fixture
def almost_no_ridge(monkeypatch):
    """Least squares proper: what is exact up to the ridge becomes exact up to 1e-4."""
    monkeypatch.setattr(solve, "ridge", lambda covariance, samples, least: 2e-5 * covariance.trace() / len(covariance))


def calibration(name, batches=4, size=16):
    return [(torch.randn(size, *units_of(name).input_size), torch.zeros(size)) for _ in range(batches)]


def error(pruned, dense, images):
    with torch.no_grad():
        return (pruned(images) - dense(images)).square().mean().item()


def repeat_hidden(model, name):
    """Makes the second half of every MLP's hidden units equal to the first half, and returns a plan without it."""
    keep = {}
    for group in units_of(name):
        if group.kind == "hidden":
            half = group.size // 2
            fc1 = model.get_submodule(group.module).fc1
            for parameter in fc1.parameters():
                parameter.data[half:] = parameter.data[:half]
            keep[group.key] = list(range(half))
    return Plan.of(units_of(name), keep)


def combine_hidden(model, name):
    """Makes most hidden units of an MLP without activation affine in the first ten, and returns a plan with those."""
    group = next(group for group in units_of(name) if group.kind == "hidden")
    mlp = model.get_submodule(group.module)
    mlp.act = nn.Identity()
    mix = torch.randn(group.size - 10, 10) / 3
    mlp.fc1.weight.data[10:] = mix @ mlp.fc1.weight.data[:10]
    mlp.fc1.bias.data[10:] = torch.randn(group.size - 10)
    return Plan.of(units_of(name), {group.key: list(range(10))})


def repeat_heads(model, name):
    """Makes the last head of every attention equal to the first, and returns a plan without it."""
    keep = {}
    for group in units_of(name):
        if group.kind == "head":
            attn = model.get_submodule(group.module)
            for parameter in attn.qkv.parameters():
                rows = parameter.data.view(3, group.size, -1)
                rows[:, -1] = rows[:, 0]
            if hasattr(attn, "relative_position_bias_table"):
                attn.relative_position_bias_table.data[:, -1] = attn.relative_position_bias_table.data[:, 0]
            keep[group.key] = list(range(group.size - 1))
    return Plan.of(units_of(name), keep)


@pytest.mark.parametrize("mode", FITTED)
@pytest.mark.parametrize("make", [repeat_hidden, combine_hidden, repeat_heads])
@pytest.mark.parametrize("name", ["vit", "swin", "swin_padded_windows", "deit3_layer_scale"])
def test_affine_functions_of_what_is_kept_are_compensated_for(name, make, mode, almost_no_ridge):
    dense = tiny(name)
    plan = make(dense, name)
    pruned = apply(dense, plan)
    images = torch.randn(8, *units_of(name).input_size)
    before = error(pruned, dense, images)
    compensate(pruned, dense, plan, calibration(name), CompensateConfig(mode))
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), dense(images), rtol=1e-4, atol=1e-4)
    assert before > 1e-3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_constant_is_compensated_for_exactly(name, mode):
    dense = tiny(name)
    attn, mlp = units_of(name).groups[:2]
    fc1 = dense.get_submodule(mlp.module).fc1
    fc1.weight.data[:40], fc1.bias.data[:40] = 0, 1.5
    values = dense.get_submodule(attn.module).qkv
    last = slice(-attn.gates[0].inner, None)  # the values of the last head
    values.weight.data[last], values.bias.data[last] = 0, -0.7
    plan = Plan.of(units_of(name), {attn.key: range(attn.size - 1), mlp.key: range(40, mlp.size)})
    pruned = apply(dense, plan)
    images = torch.randn(8, *units_of(name).input_size)
    assert error(pruned, dense, images) > 1e-3
    compensate(pruned, dense, plan, calibration(name), CompensateConfig(mode))
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), dense(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["vit", "swin", "vit_without_biases"])
def test_an_empty_branch_becomes_its_mean(name, mode):
    dense = tiny(name)
    group = units_of(name).groups[0]
    plan = Plan.of(units_of(name), {group.key: []})
    pruned, batches, outputs = apply(dense, plan), calibration(name), []
    with torch.no_grad():
        hook = dense.get_submodule(group.consumer).register_forward_hook(lambda _module, _args, y: outputs.append(y))
        for images, _ in batches:
            dense(images)
        hook.remove()
    compensate(pruned, dense, plan, batches, CompensateConfig(mode, focus=None))
    branch = pruned.get_submodule(group.module)
    assert isinstance(branch, ConstantBranch)
    torch.testing.assert_close(branch.bias, torch.cat(outputs).flatten(0, -2).mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_each_mode_comes_closer_to_the_dense_model_than_the_one_before(name):
    dense = tiny(name)
    plan, batches = some_plan(units_of(name)), calibration(name, batches=8)
    images = torch.randn(64, *units_of(name).input_size)  # none of them seen in calibration
    none, mean, affine, sequential = (
        error(compensate(apply(dense, plan), dense, plan, batches, CompensateConfig(mode)), dense, images)
        for mode in ("none", "mean", "affine", "sequential")
    )
    assert sequential < affine < min(mean, none)


@pytest.mark.parametrize("name", ["vit", "deit3_layer_scale", "swin"])
def test_sequential_mends_the_mean_of_a_shifted_residual_stream(name):
    dense = tiny(name)
    plan, batches = some_plan(units_of(name)), calibration(name)
    pruned = apply(dense, plan)
    list(pruned.patch_embed.parameters())[-1].data += 0.1  # the bias of all patches
    compensate(pruned, dense, plan, batches, CompensateConfig("sequential", focus=None))
    images = torch.cat([images for images, _ in batches])
    with torch.no_grad(), capture_inputs(dense, ["norm"]) as wanted, capture_inputs(pruned, ["norm"]) as got:
        dense(images), pruned(images)
    difference = (got["norm"] - wanted["norm"]).flatten(0, -2)
    assert difference.mean(0).abs().max() < 1e-4 < difference.abs().mean()


@pytest.mark.parametrize("name", ["vit", "deit", "deit3_layer_scale"])
def test_focus_brings_the_logits_closer_and_the_patches_further(name, almost_no_ridge):
    dense = tiny(name)
    plan, batches = some_plan(units_of(name)), calibration(name, batches=8)
    images = torch.cat([images for images, _ in batches])
    off_logits, off_patches = [], []
    for focus in (None, 0.9):
        pruned = compensate(apply(dense, plan), dense, plan, batches, CompensateConfig(focus=focus))
        with torch.no_grad():
            tokens = (pruned.forward_features(images) - dense.forward_features(images)).square()
        off_logits.append(error(pruned, dense, images))
        off_patches.append(tokens[:, 1:].mean().item())
    assert off_logits[1] < off_logits[0]
    assert off_patches[1] > off_patches[0]


def test_sequential_is_the_default(tiny_vit):
    plan, batches = some_plan(units_of("vit")), calibration("vit")
    plain, asked = (
        compensate(apply(tiny_vit, plan), tiny_vit, plan, batches, config)
        for config in (None, CompensateConfig("sequential"))
    )
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), asked.parameters(), strict=True))


def test_none_changes_nothing(tiny_vit):
    plan = some_plan(units_of("vit"))
    pruned = apply(tiny_vit, plan)
    before = copy.deepcopy(pruned.state_dict())
    assert compensate(pruned, tiny_vit, plan, [], CompensateConfig("none")) is pruned
    assert all(torch.equal(tensor, before[name]) for name, tensor in pruned.state_dict().items())


@pytest.mark.parametrize("mode", MODES)
def test_only_consumers_and_classifiers_change_and_the_dense_model_never(mode, tiny_swin):
    tiny_swin.train()
    plan = some_plan(units_of("swin"))
    pruned = apply(tiny_swin, plan)
    tensors, dense = copy.deepcopy(pruned.state_dict()), copy.deepcopy(tiny_swin.state_dict())
    traces = footprint(pruned), footprint(tiny_swin)
    compensate(pruned, tiny_swin, plan, calibration("swin"), CompensateConfig(mode))
    changed = {name.rpartition(".")[0] for name, t in pruned.state_dict().items() if not torch.equal(t, tensors[name])}
    consumers = {group.consumer for group in units_of("swin")}
    assert changed == consumers | ({"head.fc"} if mode == "sequential" else set())
    assert all(torch.equal(tensor, dense[name]) for name, tensor in tiny_swin.state_dict().items())
    assert (footprint(pruned), footprint(tiny_swin)) == traces


@pytest.mark.parametrize("mode", MODES)
def test_layers_without_bias_get_one(mode):
    dense, plan = tiny("vit_without_biases"), some_plan(units_of("vit_without_biases"))
    pruned = apply(dense, plan)
    assert pruned.blocks[0].attn.proj.bias is None
    compensate(pruned, dense, plan, calibration("vit_without_biases"), CompensateConfig(mode))
    for group in units_of("vit_without_biases"):
        bias = pruned.get_submodule(group.consumer).bias
        assert isinstance(bias, nn.Parameter) and bias.requires_grad and bias.abs().max() > 0


@pytest.mark.parametrize("mode", MODES)
def test_statistics_that_are_not_finite_are_refused(mode, tiny_vit):
    plan = some_plan(units_of("vit"))
    pruned = apply(tiny_vit, plan)
    before, traces = copy.deepcopy(pruned.state_dict()), (footprint(pruned), footprint(tiny_vit))
    broken = [(torch.full((2, 3, 32, 32), torch.nan), torch.zeros(2))]
    with pytest.raises(XPrunerError, match=r"not finite; .* precision fp32") as caught:
        compensate(pruned, tiny_vit, plan, broken, CompensateConfig(mode))
    assert caught.value.exit_code == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in pruned.state_dict().items())
    assert (footprint(pruned), footprint(tiny_vit)) == traces


@pytest.mark.parametrize(("mode", "kinds"), [("affine", ["head", "hidden", "v"]), ("sequential", KINDS)])
@pytest.mark.parametrize("name", ["vit", "swin", "deit3_layer_scale"])
def test_whatever_kinds_were_cut_the_error_falls(name, mode, kinds):
    dense, images = tiny(name), torch.randn(32, *units_of(name).input_size)
    units = find_units(dense, kinds)
    keep = {}
    for group in units:
        share = {"block": 1.0, "embed": 0.9, "qk": 0.7}.get(group.kind, 0.5)
        keep[group.key] = range(max(1, round(share * group.size)))
    keep |= {group.key: [] for group in units if group.kind == "block" and group.key.endswith("1:block")}
    plan = Plan.of(units, keep)
    pruned = apply(dense, plan)
    before = error(pruned, dense, images)
    compensate(pruned, dense, plan, calibration(name, 8, 32), CompensateConfig(mode))
    assert error(pruned, dense, images) < 0.9 * before


@pytest.mark.parametrize("mode", FITTED)
def test_value_dimensions_that_repeat_others_are_compensated_for(mode, almost_no_ridge):
    dense = tiny("vit")
    units = find_units(dense, ["v"])
    for group in units:
        values = dense.get_submodule(group.module).qkv
        for parameter in values.parameters():
            rows = parameter.data[48:].view(3, 8, -1)
            rows[:, 4:] = rows[:, :4]
    plan = Plan.of(units, {group.key: range(4) for group in units})
    pruned, images = apply(dense, plan), torch.randn(8, 3, 32, 32)
    assert error(pruned, dense, images) > 1e-4
    compensate(pruned, dense, plan, calibration("vit"), CompensateConfig(mode))
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), dense(images), rtol=1e-3, atol=1e-3)
