import pytest
import torch
from torch import nn

from xpruner.config import FinetuneConfig
from xpruner.training.recipe import make_ema, make_mixup, make_optimizer, make_schedule


def rates(steps: int, **options) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=options["lr"])
    schedule = make_schedule(optimizer, FinetuneConfig(**options), steps)
    found = []
    for step in range(steps):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_biases_norms_and_tokens_are_not_decayed(student):
    groups = make_optimizer(student, FinetuneConfig(weight_decay=0.05)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    exempt = {name for name, parameter in student.named_parameters() if decay[id(parameter)] == 0}
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias", "blocks.0.attn.qkv.bias"} <= exempt
    assert exempt == {
        name for name, p in student.named_parameters() if p.ndim == 1 or name in ("cls_token", "pos_embed")
    }
    assert {value for value in decay.values()} == {0.0, 0.05}


def test_the_rate_rises_in_equal_steps_and_falls_along_a_cosine():
    """3 of 8 updates rise by 1/4 of the peak; the 4 that follow the peak lie at 45, 90, 135 and 180 degrees."""
    half = 0.5 * 0.5**0.5
    expected = [0.25, 0.5, 0.75, 1.0, 0.5 + half, 0.5, 0.5 - half, 0.0]
    assert rates(8, lr=1.0, min_lr=0.0, warmup=3 / 8) == pytest.approx(expected)


def test_without_a_warm_up_the_first_rate_is_the_peak():
    assert rates(3, lr=2.0, min_lr=1.0, warmup=0.0) == pytest.approx([2.0, 1.5, 1.0])


def test_a_single_step_has_the_peak_rate():
    assert rates(1, lr=2.0, min_lr=1.0, warmup=0.5) == [2.0]


def test_the_average_copies_first_and_follows_later():
    """timm's warm-up of the decay: 0 for the first update, 1 - 2^(-2/3) for the second."""
    model = nn.Linear(1, 1, bias=False)
    ema = make_ema(model, FinetuneConfig(ema_decay=0.99))
    for step, value in enumerate([4.0, 8.0], 1):
        nn.init.constant_(model.weight, value)
        ema.update(model, step=step)
    decay = 1 - 2 ** (-2 / 3)
    assert ema.module.weight.item() == pytest.approx(4 * decay + 8 * (1 - decay))


def test_no_average_and_no_mixup_unless_asked(student):
    assert make_ema(student, FinetuneConfig()) is None
    assert make_mixup(student, FinetuneConfig()) is None


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_pairs_first_with_last_and_smooths(student, kind):
    """With two images of classes 0 and 2, smoothing 0.3 leaves 0.8, 0.1, 0.1; what one loses the other gains."""
    mix = make_mixup(student, FinetuneConfig(label_smoothing=0.3, **{kind: 1.0}))
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    mixed, targets = mix(images, torch.tensor([0, 2]))
    share = 1 - mixed[0].mean().item()  # of the first image, which is black
    expected = [0.1 + 0.7 * share, 0.1, 0.1 + 0.7 * (1 - share)]
    torch.testing.assert_close(targets, torch.tensor([expected, expected[::-1]]))
    assert 0 < share < 1
