"""The learning loop: resuming, stopping on NaN, and leaving the model alone."""

import pytest
import torch
from torch import nn

from xpruner.errors import UsageError, XPrunerError
from xpruner.runtime.modes import frozen
from xpruner.training.options import LoopOptions
from xpruner.training.search import Loop, learn


class Line(torch.utils.data.Dataset):
    """Sixteen numbers with their doubles as labels."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int):
        return torch.tensor([float(index)]), 2 * index


def fit(options: LoopOptions, steps: int = 9, break_at: int | None = None, lr: float = 0.1, **more) -> nn.Module:
    torch.manual_seed(0)
    line = nn.Linear(1, 1)
    calls = [0]

    def loss(progress, x, y):
        calls[0] += 1
        value = (line(x)[:, 0] - y + torch.randn(())).square().mean()
        return value * (float("nan") if calls[0] == break_at else 1), {"progress": progress}

    learn(
        Loop("a line", line, torch.optim.Adam(line.parameters(), lr), loss, steps, {"lr": lr}, **more), Line(), options
    )
    return line


class Stop(Exception):
    pass


def stop_at(number: int):
    def on_step(step, figures):
        if step == number:
            raise Stop

    return on_step


def test_a_stopped_loop_ends_as_one_left_alone(tmp_path):
    whole = fit(LoopOptions(4), 11)
    with pytest.raises(Stop):
        fit(LoopOptions(4, state_dir=tmp_path, checkpoint_every=3, on_step=stop_at(8)), 11)
    resumed = fit(LoopOptions(4, state_dir=tmp_path, checkpoint_every=3), 11)
    assert torch.equal(resumed.weight, whole.weight)


def test_progress_runs_from_0_to_1():
    seen = []
    fit(LoopOptions(4, on_step=lambda step, figures: seen.append((step, figures["progress"]))), steps=5)
    assert seen == [(1, 0.0), (2, 0.25), (3, 0.5), (4, 0.75), (5, 1.0)]


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_state(tmp_path):
    options = LoopOptions(4, state_dir=tmp_path, checkpoint_every=3)
    with pytest.raises(XPrunerError, match=r"nan at step 5; the state of step 3 is kept: lower the learning rate"):
        fit(options, break_at=5)
    assert torch.equal(fit(options).weight, fit(LoopOptions(4)).weight)


def test_what_comes_before_an_update_can_change_its_gradients():
    line, weights = nn.Linear(1, 1), []
    start = line.weight.item()

    def before(_step: int) -> float:
        weights.append(line.weight.item())
        line.weight.grad.fill_(2.0)
        return 2.0

    def loss(_progress, x, y):
        return (line(x)[:, 0] - y).square().mean(), {}

    loop = Loop("a line", line, torch.optim.SGD(line.parameters(), 0.5), loss, 3, before=before)
    learn(loop, Line(), LoopOptions(4))
    assert [*weights, line.weight.item()] == pytest.approx([start, start - 1, start - 2, start - 3])


def test_gradients_that_are_not_finite_stop_and_keep_the_last_good_state(tmp_path):
    options = LoopOptions(4, state_dir=tmp_path, checkpoint_every=3)
    with pytest.raises(XPrunerError, match=r"gradients of a line became inf at step 5; the state of step 3 is kept"):
        fit(options, before=lambda step: float("inf") if step == 5 else 1.0)
    assert torch.equal(fit(options).weight, fit(LoopOptions(4)).weight)


def test_the_state_of_another_search_is_refused(tmp_path):
    options = LoopOptions(4, state_dir=tmp_path, checkpoint_every=1)
    fit(options)
    with pytest.raises(UsageError, match=r"lr 0\.1, not 0\.2"):
        fit(options, lr=0.2)


def test_frozen_gives_everything_back(tiny_vit):
    tiny_vit.train()
    tiny_vit.cls_token.requires_grad_(False)
    with frozen(tiny_vit):
        assert not tiny_vit.training
        assert not any(p.requires_grad for p in tiny_vit.parameters())
    assert tiny_vit.training
    assert [name for name, p in tiny_vit.named_parameters() if not p.requires_grad] == ["cls_token"]
