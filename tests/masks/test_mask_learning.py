"""Stage 1: the parts images play, the loss by hand, and what the masks learn."""

import math

import pytest
import torch
from tiny_models import Noise

from xpruner.config import MaskConfig
from xpruner.masks.class_masks import ClassMasks
from xpruner.masks.learning import (
    MEAN,
    TRUE,
    WRONG,
    assign_roles,
    leak,
    learn_masks,
    role_gates,
    role_loss,
    wrong_labels,
)
from xpruner.training.options import LoopOptions
from xpruner.units import find_units


def test_roles_come_in_the_shares_asked_for():
    roles = assign_roles(torch.zeros(16), MaskConfig(wrong=0.25, mean=0.5))
    assert [(roles == role).sum().item() for role in (TRUE, WRONG, MEAN)] == [4, 4, 8]


def test_a_wrong_label_is_never_the_true_one():
    labels = torch.arange(3).repeat(100)
    wrong = wrong_labels(labels, 3)
    assert not (wrong == labels).any()
    assert set(wrong.tolist()) == {0, 1, 2}


def test_gates_are_the_gating_classs_row_or_the_class_mean():
    values = {"g": torch.tensor([[0.2, 1.0], [0.4, 0.0]])}
    gates = role_gates(values, torch.tensor([TRUE, WRONG, MEAN]), torch.tensor([0, 1, 1]))["g"]
    assert torch.allclose(gates, torch.tensor([[0.2, 1.0], [0.4, 0.0], [0.3, 0.5]]))


def test_role_loss_by_hand():
    """p = (3/4, 1/4): -log 3/4 for the true class 0, -log(1 - 3/4) for the wrong class 0, KL 0 for equal logits."""
    logits = torch.tensor([[math.log(3.0), 0.0]] * 3)
    roles, labels = torch.tensor([TRUE, WRONG, MEAN]), torch.tensor([0, 0, 1])
    loss = role_loss(logits, logits[2:], roles, labels)
    assert loss.item() == pytest.approx((-math.log(0.75) - math.log(0.25) + 0.0) / 3, rel=1e-4)


def test_sparsity_and_smoothness_are_part_of_the_loss(tiny_vit):
    """Masks of 3/4 for one of five classes and 1/4 for the others: their mean is 0.35, their variance 0.04."""
    masks = ClassMasks(find_units(tiny_vit), 5, init=0.25)
    with torch.no_grad():
        for table in masks.parameters():
            table[0] = math.log(3)
    steps = []
    options = LoopOptions(10, on_step=lambda _, figures: steps.append(figures))
    config = MaskConfig(steps=1, sparsity=2.0, smooth="class", smooth_weight=3.0)
    learn_masks(tiny_vit, masks, Noise(20), config, options)
    assert steps[0]["loss"] == pytest.approx(steps[0]["task"] + 2 * 0.35 + 3 * 0.04)


@pytest.mark.parametrize("smooth", ["none", "class", "unit", "time"])
@pytest.mark.parametrize("rank", [None, 2])
def test_sparsity_closes_masks_and_the_weights_stay(tiny_vit, smooth, rank):
    before = {name: p.clone() for name, p in tiny_vit.state_dict().items()}
    masks = ClassMasks(find_units(tiny_vit), 5, rank)
    start = torch.cat([m.flatten() for m in masks.values().values()]).mean()
    config = MaskConfig(steps=5, lr=0.1, sparsity=100.0, smooth=smooth)
    learn_masks(tiny_vit, masks, Noise(20), config, LoopOptions(10))
    assert torch.cat([m.flatten() for m in masks.values().values()]).mean() < start - 0.01
    assert all(torch.equal(p, before[name]) for name, p in tiny_vit.state_dict().items())
    assert not any(m._forward_pre_hooks for m in tiny_vit.modules())


def test_masks_by_the_true_class_alone_leak_the_label(tiny_vit):
    """A network of random weights knows nothing; gated by the label it gets better all the same."""
    masks = ClassMasks(find_units(tiny_vit), 5, init=0.5)
    config = MaskConfig(steps=60, lr=0.3, wrong=0.0, mean=0.0, sparsity=0.0, smooth="none")
    learn_masks(tiny_vit, masks, Noise(20), config, LoopOptions(20))
    data = [torch.utils.data.default_collate([Noise(20)[i] for i in range(20)])]
    figures = leak(tiny_vit, masks, data)
    assert figures["leak"] == pytest.approx(figures["gated"] - figures["label_free"])
    assert figures["leak"] >= 0.2
