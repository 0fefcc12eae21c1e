import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny
from torch import nn
from torch.utils.data import TensorDataset

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import nuwa

from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units


class Attention(nn.Module):
    """One head of width 2 without biases, whose query-key map is diag(3, 1) and whose value-output map is the unit."""

    num_heads = 1

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(2, 6, bias=False), nn.Linear(2, 2)
        self.qkv.weight = nn.Parameter(torch.cat([torch.diag(torch.tensor([3.0, 1.0])), torch.eye(2), torch.eye(2)]))
        self.proj.weight = nn.Parameter(torch.eye(2))


@pytest.mark.parametrize(("beta", "expected"), [(0.0, [0, 1, 1, 0]), (1.0, [0, 1, 1, 0]), (-9.0, [0, 1, 0, 0])])
def test_the_best_are_open(beta, expected):
    """floor(4 sigmoid(beta)) of four units, 4 x 0.5, 4 x 0.73 and 4 x 0.0001, one at least."""
    learned = nuwa.Purification(list(find_units(tiny("vit"), ["hidden"]))[:1])
    learned.scores[0], learned.betas[0] = nn.Parameter(torch.tensor([0.3, 0.9, 0.5, 0.1])), torch.tensor(beta)
    assert learned.gates()["blocks.0.mlp:hidden"].tolist() == expected


def test_purification_closes_the_unit_that_turns_images_away_from_their_class():
    model = tiny("vit")
    mlp, path = model.blocks[-1].mlp, "blocks.1.mlp:hidden"
    with torch.no_grad():
        mlp.fc2.weight.zero_()
        mlp.fc1.bias[5] = 3.0
        mlp.fc2.weight[:, 5] = -model.head.weight[0]  # away from class 0
    train = TensorDataset(torch.randn(16, 3, 32, 32), torch.zeros(16, dtype=torch.long))
    kept = nuwa.purified(model, find_units(model, ["hidden"]), train, seed=0, precision="fp32")
    assert kept[path] == [unit for unit in range(96) if unit != 5]  # floor(96 sigmoid(5 +- 0.2)) = 95 stay


@pytest.mark.parametrize("name", ["vit", "deit"])
def test_factorised_heads_compute_the_same(name):
    model, images = tiny(name), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(nuwa.factorised(model)(images), model(images), rtol=1e-4, atol=1e-4)


def test_factors_are_sorted_and_balanced():
    model = nn.Sequential(Attention())
    found = nuwa.factorised(model)[0]
    q, k, v = found.qkv.weight.abs().view(3, 2, 2)
    root = torch.tensor([[3**0.5, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(q, root)
    torch.testing.assert_close(k, root)
    torch.testing.assert_close(found.proj.weight @ found.qkv.weight[4:], torch.eye(2))
    assert v.shape == (2, 2)


@pytest.mark.parametrize(("share", "dimensions"), [(0.85, 1), (0.95, 2)])
def test_heads_keep_the_dimensions_that_hold_the_energy(share, dimensions):
    """The squared singular values are 9 and 1 of queries and keys, 1 and 1 of values and output."""
    kept = nuwa.leading(nn.Sequential(Attention()), share)
    assert kept == {"0:qk": list(range(dimensions)), "0:v": [0, 1]}


def test_the_energy_falls_with_the_share_that_goes():
    assert nuwa.energy(0.0) == 1.0
    assert nuwa.energy(0.5) == pytest.approx(1 - 0.015 + 0.035 - 0.05125)


@pytest.mark.parametrize(
    ("counts", "total", "widths"),
    [([10, 2, 10], 12, [5, 2, 5]), ([4, 4], 7, [3, 4]), ([3, 5], 100, [3, 5])],
)
def test_mlps_get_one_width_save_those_that_are_narrower(counts, total, widths):
    assert nuwa.common_widths(counts, total) == widths


def test_the_pseudo_inverse_hands_a_twin_over():
    """Hidden unit 1 hands on twice what unit 0 does, so unit 0 takes its column twice."""
    model = tiny("vit")
    mlp = model.blocks[0].mlp
    with torch.no_grad():
        for tensor in (mlp.fc1.weight, mlp.fc1.bias):
            tensor[1] = tensor[0]
    units = find_units(model, ["hidden"])
    keep = {group.key: list(range(96)) for group in units} | {"blocks.0.mlp:hidden": [0, *range(2, 96)]}
    plan = Plan.of(units, keep)
    batches = [(torch.randn(64, 3, 32, 32), torch.zeros(64, dtype=torch.long))]
    found = nuwa.refit(apply(model, plan), model, plan, units, batches, "fp32").blocks[0].mlp
    torch.testing.assert_close(found.fc2.weight[:, 0], mlp.fc2.weight[:, 0] + mlp.fc2.weight[:, 1], rtol=0, atol=1e-3)
    torch.testing.assert_close(found.fc2.weight[:, 1:], mlp.fc2.weight[:, 2:], rtol=0, atol=1e-3)


def test_the_recipe_meets_the_budget_and_cuts_what_its_plan_says():
    model, images = tiny("vit"), torch.randn(32, 3, 32, 32)
    labels = torch.arange(32) % 2
    found = nuwa.nuwa(model, TensorDataset(images, labels), [(images, labels)], Budget(0.7))
    assert count_macs(found.cut) == count_macs(found.refitted) == found.plan.cost["macs_pruned"]
    assert 0.68 < found.plan.cost["macs_pruned"] / found.plan.cost["macs_dense"] <= 0.7
    with torch.no_grad():
        torch.testing.assert_close(apply(found.dense, found.plan)(images), found.cut(images))
        assert not torch.allclose(found.cut(images), found.refitted(images))


def test_a_budget_that_the_heads_spend_alone_is_refused():
    model, images = tiny("vit"), torch.randn(8, 3, 32, 32)
    train = TensorDataset(images, torch.zeros(8, dtype=torch.long))
    with pytest.raises(UsageError, match="is nearly spent by the heads of NuWa alone; raise it"):
        nuwa.nuwa(model, train, [(images, train.tensors[1])], Budget(0.5))
