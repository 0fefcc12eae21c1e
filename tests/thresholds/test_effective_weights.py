"""Effective weights: what the search sees is what compensation makes of its choice."""

import pytest
import torch
from torch.func import functional_call

from xpruner.calibration.moments import consumer_moments
from xpruner.compensation.fit import compensate
from xpruner.config import CompensateConfig
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.thresholds.effective_weights import EffectiveWeights
from xpruner.units import find_units


@pytest.fixture
def setting(tiny_vit):
    units = find_units(tiny_vit)
    data = [(torch.randn(32, 3, 32, 32), torch.zeros(32, dtype=torch.long)) for _ in range(4)]
    moments = consumer_moments(tiny_vit, units, data)
    keep = {g.key: sorted(torch.randperm(g.size)[: max(1, g.size * 2 // 3)].tolist()) for g in units}
    return tiny_vit, units, data, moments, Plan.of(units, keep)


def test_hard_gates_give_the_compensated_model(setting):
    model, units, data, moments, plan = setting
    effective = EffectiveWeights(model, units, moments)
    effective.refit(plan.gates())
    images = torch.randn(3, 3, 32, 32)
    searched = functional_call(effective.model, effective.weights(plan.gates()), images)
    pruned = compensate(apply(model, plan), model, plan, data, CompensateConfig("affine"))
    assert torch.allclose(searched, pruned(images), atol=5e-3)  # the ridge is that of all channels, not of the kept


def test_all_gates_open_give_the_dense_model(setting):
    model, units, _, moments, _ = setting
    effective = EffectiveWeights(model, units, moments)
    gates = {group.key: torch.ones(group.size) for group in units}
    effective.refit(gates)
    images = torch.randn(3, 3, 32, 32)
    assert torch.allclose(functional_call(effective.model, effective.weights(gates), images), model(images), atol=1e-4)


@pytest.mark.parametrize("key", ["blocks.0.attn:head", "blocks.1.mlp:hidden"])
@pytest.mark.parametrize("new", [0.0, 1.0])
def test_changing_one_gate_is_exact_without_a_new_fit(setting, key, new):
    """Removing or adding one unit by its first-order change gives the weights of a fresh fit."""
    model, units, _, moments, plan = setting
    before = plan.gates()
    unit = int((before[key] != new).nonzero()[0])
    after = {**before, key: before[key].clone()}
    after[key][unit] = new
    updated, fresh = EffectiveWeights(model, units, moments), EffectiveWeights(model, units, moments)
    updated.refit(before)
    fresh.refit(after)
    for name, weight in fresh.weights(after).items():
        assert torch.allclose(updated.weights(after)[name], weight, atol=1e-4), name


def test_a_consumer_without_bias_gets_one_in_the_copy_alone(tiny_vit):
    units = find_units(tiny_vit)
    tiny_vit.blocks[0].mlp.fc2.bias = None
    data = [(torch.randn(8, 3, 32, 32), torch.zeros(8))]
    effective = EffectiveWeights(tiny_vit, units, consumer_moments(tiny_vit, units, data))
    assert effective.model.blocks[0].mlp.fc2.bias.abs().sum() == 0
    assert tiny_vit.blocks[0].mlp.fc2.bias is None
    assert not effective.fitted
