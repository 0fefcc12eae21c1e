"""First-order class evidence, against values computed by hand and by brute force."""

import pytest
import torch
from torch.nn import functional as F

from xpruner.calibration.moments import consumer_moments
from xpruner.masks.evidence import class_evidence, own_part
from xpruner.units import KINDS, find_units
from xpruner.units.gates import gating


def batch(size: int = 4, classes: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(size, 3, 32, 32), torch.arange(size) % classes)]


def test_own_part_of_two_correlated_units_is_what_regression_leaves():
    """With variances 1 and correlation r, the part of x1 that x2 does not predict is x1 - r x2."""
    r = 0.6
    precision = torch.linalg.inv(torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64))
    assert torch.allclose(
        own_part(precision, torch.tensor([[0], [1]])), torch.tensor([[1.0, -r], [-r, 1.0]], dtype=torch.float64)
    )


def test_own_part_of_heads_is_the_residual_of_a_regression_on_the_other_heads():
    x = torch.randn(200, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    x -= x.mean(0)
    own = own_part(torch.linalg.inv(x.T @ x), torch.arange(6).view(3, 2))
    others = x[:, 2:]
    residual = x[:, :2] - others @ torch.linalg.lstsq(others, x[:, :2]).solution
    assert torch.allclose(x @ own[:2].T, residual, atol=1e-8)


def test_own_part_of_units_that_lie_interleaved():
    x = torch.randn(200, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    precision = torch.linalg.inv(x.T @ x)
    order = [0, 3, 1, 4, 2, 5]  # unit u owns the channels u and u + 3
    own = own_part(precision, torch.tensor([[0, 3], [1, 4], [2, 5]]))
    together = own_part(precision[order][:, order], torch.arange(6).view(3, 2))
    assert torch.allclose(own[order][:, order], together)


def test_own_part_without_units_is_empty():
    assert own_part(torch.zeros(0, 0, dtype=torch.float64), torch.zeros(0, 8, dtype=torch.long)).shape == (0, 0)


@pytest.mark.parametrize("kinds", [KINDS[:2], KINDS], ids=["head+hidden", "all"])
@pytest.mark.parametrize("name", ["tiny_vit", "tiny_swin"])
def test_taylor_evidence_is_the_squared_gradient_of_a_gate(name, kinds, request):
    model = request.getfixturevalue(name)
    units, data = find_units(model, kinds), batch()
    images, labels = data[0]
    gates = {group.key: torch.ones(4, group.size, requires_grad=True) for group in units}
    with gating(model, units, gates):
        loss = F.cross_entropy(model(images), labels, reduction="sum")
    slopes = torch.autograd.grad(loss, list(gates.values()))
    evidence = class_evidence(model, units, data, 5)
    for group, slope in zip(units, slopes, strict=True):
        assert torch.allclose(evidence[group.key][:4], slope.square(), rtol=1e-3, atol=1e-9)


def test_evidence_at_a_temperature_is_that_of_logits_that_are_divided_by_it(tiny_vit):
    units, data = find_units(tiny_vit), batch()
    softened = class_evidence(tiny_vit, units, data, 5, temperature=4.0)
    with torch.no_grad():
        tiny_vit.head.weight /= 4
        tiny_vit.head.bias /= 4
    for key, divided in class_evidence(tiny_vit, units, data, 5).items():
        assert torch.allclose(softened[key], divided, rtol=1e-3, atol=1e-12)


def test_a_class_without_images_gets_the_mean_of_the_others(tiny_vit):
    table = class_evidence(tiny_vit, find_units(tiny_vit), batch(), 5)["blocks.0.mlp:hidden"]
    assert torch.allclose(table[4], table[:4].mean(0))


def test_a_copied_unit_is_replaceable(tiny_vit):
    """Two equal hidden units: Taylor sees both, irreplaceable evidence sees next to nothing in either."""
    mlp = tiny_vit.blocks[0].mlp
    with torch.no_grad():
        mlp.fc1.weight[1], mlp.fc1.bias[1] = mlp.fc1.weight[0], mlp.fc1.bias[0]
    units, data = find_units(tiny_vit), [(torch.randn(64, 3, 32, 32), torch.arange(64) % 5)]
    moments = consumer_moments(tiny_vit, units, data)
    taylor = class_evidence(tiny_vit, units, data, 5)["blocks.0.mlp:hidden"].mean(0)
    irreplaceable = class_evidence(tiny_vit, units, data, 5, moments)["blocks.0.mlp:hidden"].mean(0)
    assert irreplaceable[:2].max() < 0.01 * taylor[:2].min()
    assert irreplaceable[2:].median() > irreplaceable[:2].max()


def test_the_model_is_left_as_it_was(tiny_vit):
    class_evidence(tiny_vit.train(), find_units(tiny_vit), batch(), 5)
    assert tiny_vit.training
    assert all(p.requires_grad and p.grad is None for p in tiny_vit.parameters())
    assert not any(m._forward_pre_hooks for m in tiny_vit.modules())
