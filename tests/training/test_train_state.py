import math

import pytest
import torch
from torch import nn

from xpruner.config import FinetuneConfig
from xpruner.runtime.devices import accelerator
from xpruner.training.train_state import Checkpointer, TrainState

SCALE = 2.0**16  # torch's first scale of an fp16 loss


class Weight(nn.Module):
    """Two weights, from 1, and a loss with the gradient that is asked for."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def loss(self, *gradient: float) -> torch.Tensor:
        return self.weight @ torch.tensor(gradient)


def learn(precision: str = "fp32", **options) -> TrainState:
    config = FinetuneConfig(lr=0.1, min_lr=0.1, warmup=0.0, weight_decay=0.0, **options)
    return TrainState(Weight(), config, 4, precision, accelerator())


def backward(train_state: TrainState, loss: torch.Tensor) -> float:
    assert train_state.backward(loss) == loss.item()
    return train_state.clip()


def test_gradients_are_clipped_to_their_norm():
    train_state = learn(clip_grad=1.0)
    assert backward(train_state, train_state.student.loss(3.0, 4.0)) == pytest.approx(5.0)
    torch.testing.assert_close(train_state.student.weight.grad, torch.tensor([0.6, 0.8]))


def test_small_gradients_stay_and_do_not_add_up():
    train_state = learn(clip_grad=1.0)
    for _ in range(2):
        backward(train_state, train_state.student.loss(0.3, 0.4))
    torch.testing.assert_close(train_state.student.weight.grad, torch.tensor([0.3, 0.4]))


def test_under_fp16_the_loss_is_scaled_and_the_gradients_are_not():
    train_state = learn("fp16", clip_grad=10.0)
    assert backward(train_state, train_state.student.loss(3.0, 4.0)) == pytest.approx(5.0)
    assert train_state.scaler.get_scale() == SCALE
    torch.testing.assert_close(train_state.student.weight.grad, torch.tensor([3.0, 4.0]))


def test_an_fp16_overflow_skips_the_update_and_halves_the_scale():
    train_state = learn("fp16")
    assert backward(train_state, train_state.student.loss(math.inf, 1.0)) == 0
    train_state.update(1)
    assert train_state.student.weight.tolist() == [1.0, 1.0]
    assert train_state.scaler.get_scale() == SCALE / 2


def test_in_fp32_an_overflow_shows_in_the_norm():
    train_state = learn()
    assert not math.isfinite(backward(train_state, train_state.student.loss(math.inf, 1.0)))


def test_the_average_follows_the_updates_and_is_what_is_left():
    """Both weights fall by 0.1 an update; timm's average copies the first and takes 2^(-2/3) of the second."""
    train_state = learn(ema_decay=0.9)
    for step in (1, 2):
        backward(train_state, train_state.student.loss(1.0, 1.0))
        train_state.update(step)
    share = 2 ** (-2 / 3)
    expected = torch.full((2,), 0.9 * (1 - share) + 0.8 * share)
    torch.testing.assert_close(train_state.finish().weight.detach(), expected)


def test_a_snapshot_brings_back_weights_average_moments_and_scale():
    train_state = learn("fp16", ema_decay=0.9)
    backward(train_state, train_state.student.loss(3.0, 4.0))
    train_state.update(1)
    kept = train_state.snapshot(1)
    assert kept.tensors.keys() == {
        "student.weight",
        "ema.weight",
        "optimizer.0.step",
        "optimizer.0.exp_avg",
        "optimizer.0.exp_avg_sq",
    }
    for step, gradient in enumerate((1.0, math.inf), 2):
        backward(train_state, train_state.student.loss(gradient, gradient))
        train_state.update(step)
    other = learn("fp16", ema_decay=0.9)
    for one in (train_state, other):
        one.restore(kept)
        again = one.snapshot(1)
        assert all(torch.equal(again.tensors[name], kept.tensors[name]) for name in kept.tensors)
        assert again.scaler == kept.scaler


def test_what_is_kept_does_not_move_with_the_learner():
    """Neither when it was taken nor when it was put back: one gradient of 1 leaves a first moment of 0.1."""
    train_state = learn(clip_grad=10.0)
    checkpointer = Checkpointer(train_state, None, accelerator())
    for step in (1, 2, 2):
        backward(train_state, train_state.student.loss(1.0, 1.0))
        train_state.update(step)
        if step == 1:
            checkpointer.keep(1)
        train_state.restore(checkpointer.good)
    assert checkpointer.good.step == 1
    torch.testing.assert_close(checkpointer.good.tensors["student.weight"], torch.full((2,), 0.9))
    torch.testing.assert_close(checkpointer.good.tensors["optimizer.0.exp_avg"], torch.full((2,), 0.1))
