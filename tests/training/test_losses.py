from math import log

import pytest
import torch

from xpruner.config import FinetuneConfig
from xpruner.training.losses import distillation_loss, finetune_loss, label_loss

EVEN = torch.zeros(1, 2)  # softmax (1/2, 1/2)
TILTED = torch.tensor([[log(3.0), 0.0]])  # softmax (3/4, 1/4)
KL = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)


def test_distillation_is_the_divergence_from_the_teacher():
    assert distillation_loss(EVEN, TILTED).item() == pytest.approx(KL)
    assert distillation_loss(TILTED, EVEN).item() == pytest.approx(0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25))


def test_distillation_is_zero_between_equal_distributions():
    assert distillation_loss(TILTED, TILTED + 5).item() == pytest.approx(0, abs=1e-6)


def test_temperature_softens_both_and_its_square_multiplies():
    assert distillation_loss(EVEN, 2 * TILTED, temperature=2.0).item() == pytest.approx(4 * KL)


def test_distillation_averages_over_the_batch():
    assert distillation_loss(EVEN.repeat(2, 1), torch.cat([TILTED, EVEN])).item() == pytest.approx(KL / 2)


def test_label_loss_without_smoothing_is_the_negative_log_probability():
    assert label_loss(TILTED, torch.tensor([1])).item() == pytest.approx(-log(0.25))


def test_label_smoothing_gives_every_class_its_share():
    loss = label_loss(TILTED, torch.tensor([0]), smoothing=0.2)
    assert loss.item() == pytest.approx(-(0.9 * log(0.75) + 0.1 * log(0.25)))


def test_soft_targets_weigh_the_classes_and_are_not_smoothed_again():
    loss = label_loss(TILTED, torch.tensor([[0.4, 0.6]]), smoothing=0.2)
    assert loss.item() == pytest.approx(-(0.4 * log(0.75) + 0.6 * log(0.25)))


def test_the_two_losses_are_weighed():
    config = FinetuneConfig(distill=0.9, label_smoothing=0.0)
    loss = finetune_loss(EVEN, torch.tensor([0]), TILTED, config)
    assert loss.item() == pytest.approx(0.9 * KL + 0.1 * log(2))


def test_without_a_teacher_only_labels_count():
    config = FinetuneConfig(distill=0.0, label_smoothing=0.0)
    assert finetune_loss(EVEN, torch.tensor([0]), None, config).item() == pytest.approx(log(2))
