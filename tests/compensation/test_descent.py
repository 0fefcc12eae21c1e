import math

import pytest
import torch
from torch import nn

from xpruner.compensation.descent import Descent, descend, draws, only_trained, rate
from xpruner.runtime.progress import Progress


def how(steps: int, lr: float = 0.1, seed: int = 0, part: int = 0) -> Descent:
    return Descent(steps, lr, seed, part)


def towards(goal: float, steps: int, held_out) -> tuple[nn.Parameter, tuple[float, float]]:
    """Tunes a number from 0 on."""
    number = nn.Parameter(torch.zeros(()))
    return number, tuned(number, lambda _: (number - goal).square(), lambda: held_out(number), steps)


def tuned(number: nn.Parameter, loss, held_out, steps: int) -> tuple[float, float]:
    with Progress("tuning", steps) as progress:
        return descend([number], loss, held_out, 5, how(steps), progress)


def test_the_rate_rises_for_a_tenth_and_falls_as_a_cosine():
    assert [rate(step, 20) for step in (1, 2)] == [0.5, 1.0]
    assert rate(3, 20) == pytest.approx((1 + math.cos(math.pi / 19)) / 2)
    assert 0 < rate(20, 20) < 0.01


def test_every_image_is_drawn_once_an_epoch_and_whole_batches_alone():
    chosen = list(draws(70, how(4)))  # two batches of 32 an epoch
    assert [len(numbers) for numbers in chosen] == [32] * 4
    for epoch in (chosen[:2], chosen[2:]):
        assert len(torch.cat(epoch).unique()) == 64
    assert not torch.equal(chosen[0], chosen[2])


def test_few_images_are_drawn_together():
    assert [sorted(numbers.tolist()) for numbers in draws(3, how(2))] == [[0, 1, 2]] * 2


def test_draws_depend_on_seed_and_part_alone():
    torch.manual_seed(1)
    one = list(draws(64, how(2, seed=3, part=1)))
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(one, draws(64, how(2, seed=3, part=1)), strict=True))
    assert not torch.equal(one[0], next(draws(64, how(2, seed=4, part=1))))
    assert not torch.equal(one[0], next(draws(64, how(2, seed=3, part=2))))


def test_the_goal_is_reached_and_the_losses_told():
    number, (before, after) = towards(1.0, 200, lambda n: (n.item() - 1) ** 2)
    assert number.item() == pytest.approx(1, abs=0.02)
    assert before == 1.0
    assert after == pytest.approx((number.item() - 1) ** 2)


def test_the_first_state_is_left_where_nothing_is_better():
    number, (before, after) = towards(1.0, 50, lambda n: n.item() ** 2)
    assert (number.item(), before, after) == (0.0, 0.0, 0.0)


def test_the_best_state_on_the_way_is_left():
    """The loss pulls to 1, the held-out images say 0.5."""
    number, (before, after) = towards(1.0, 100, lambda n: (n.item() - 0.5) ** 2)
    assert before == 0.25
    assert after == pytest.approx((number.item() - 0.5) ** 2)
    assert 0.1 < number.item() < 0.9


def test_a_loss_that_is_not_finite_ends_it_with_the_best_state_so_far():
    number = nn.Parameter(torch.ones(()))
    left = tuned(number, lambda _: number * torch.nan, lambda: number.item(), 10)
    assert (number.item(), left) == (1.0, (1.0, 1.0))


def test_gradients_flow_into_what_is_tuned_alone_and_all_is_as_before_afterwards():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].bias.requires_grad_(False)
    model[1].bias.grad = mine = torch.ones(1)
    with pytest.raises(KeyError), only_trained(model, [model[0].weight, model[0].bias]):
        assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]
        model(torch.ones(1, 2)).sum().backward()
        raise KeyError
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    assert [p.grad for p in model.parameters()] == [None, None, None, mine]
