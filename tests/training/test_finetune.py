import copy
import math
from dataclasses import replace

import pytest
import torch
from tiny_training import CLASSES
from torch import nn

from xpruner.config import FinetuneConfig
from xpruner.errors import UsageError, XPrunerError
from xpruner.training import evaluate, finetune
from xpruner.training.options import LoopOptions

CONFIG = FinetuneConfig(epochs=2, lr=1e-3, checkpoint_every=2)  # 12 images by 4: 3 steps an epoch
RICH = FinetuneConfig(epochs=2, lr=1e-3, checkpoint_every=2, features=1.0, mixup=0.8, cutmix=1.0, ema_decay=0.9)
LABELS = FinetuneConfig(epochs=2, lr=1e-3, distill=0.0, checkpoint_every=2)


class Stop(Exception):
    pass


def stop_at(last: int):
    def on_step(step: int, metrics: dict[str, float]) -> None:
        if step == last:
            raise Stop

    return on_step


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("config", [CONFIG, RICH], ids=["plain", "mixed-averaged"])
@pytest.mark.parametrize("last", [1, 2, 3, 5, 6])
def test_a_stopped_run_ends_with_the_same_bits(student, teacher, blobs, tmp_path, config, last):
    """Stopped before the first checkpoint, at one, at an epoch's end, between two, and at the very end."""
    other = copy.deepcopy(student)
    expected = weights(finetune(student, teacher, blobs, config, LoopOptions(4)))
    with pytest.raises(Stop):
        finetune(other, teacher, blobs, config, LoopOptions(4, state_dir=tmp_path, on_step=stop_at(last)))
    nn.init.zeros_(other.head.weight)  # what the student holds now does not matter
    assert same(weights(finetune(other, teacher, blobs, config, LoopOptions(4, state_dir=tmp_path))), expected)


def test_a_stopped_run_shows_only_the_rest(student, teacher, blobs, tmp_path):
    with pytest.raises(Stop):
        finetune(student, teacher, blobs, CONFIG, LoopOptions(4, state_dir=tmp_path, on_step=stop_at(4)))
    steps = []
    finetune(
        student,
        teacher,
        blobs,
        CONFIG,
        LoopOptions(4, state_dir=tmp_path, on_step=lambda step, _: steps.append(step)),
    )
    assert steps == [4, 5, 6]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_steps_count_whatever_the_epochs(student, teacher, blobs, tmp_path, count):
    """Within an epoch of 3 steps, at its end and beyond it; what was stopped resumes."""
    config, steps = FinetuneConfig(steps=count, lr=1e-3, checkpoint_every=1), []
    expected = weights(finetune(copy.deepcopy(student), teacher, blobs, config, LoopOptions(4)))
    with pytest.raises(Stop):
        finetune(student, teacher, blobs, config, LoopOptions(4, state_dir=tmp_path, on_step=stop_at(2)))
    resumed = finetune(
        student,
        teacher,
        blobs,
        config,
        LoopOptions(4, state_dir=tmp_path, on_step=lambda step, _: steps.append(step)),
    )
    assert steps == list(range(2, count + 1))
    assert same(weights(resumed), expected)


def test_a_finished_run_is_not_repeated(student, teacher, blobs, tmp_path):
    expected = weights(finetune(student, teacher, blobs, RICH, LoopOptions(4, state_dir=tmp_path)))
    nn.init.zeros_(student.head.weight)
    blobs.seen.clear()
    assert same(weights(finetune(student, teacher, blobs, RICH, LoopOptions(4, state_dir=tmp_path))), expected)
    assert blobs.seen == []


def test_a_broken_state_costs_only_the_steps_since_the_one_before(student, teacher, blobs, tmp_path):
    other = copy.deepcopy(student)
    expected = weights(finetune(student, teacher, blobs, CONFIG, LoopOptions(4)))
    with pytest.raises(Stop):
        finetune(other, teacher, blobs, CONFIG, LoopOptions(4, state_dir=tmp_path, on_step=stop_at(5)))
    max(tmp_path.iterdir()).write_bytes(b"damage")
    assert same(weights(finetune(other, teacher, blobs, CONFIG, LoopOptions(4, state_dir=tmp_path))), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_processes_do_not_change_the_result(student, teacher, blobs, workers):
    one_step = FinetuneConfig(epochs=1)
    expected = weights(finetune(copy.deepcopy(student), teacher, blobs, one_step))
    assert same(weights(finetune(student, teacher, blobs, one_step, LoopOptions(workers=workers))), expected)


def test_another_seed_gives_other_weights(student, teacher, blobs):
    first = weights(finetune(copy.deepcopy(student), teacher, blobs, CONFIG, LoopOptions(4)))
    assert not same(weights(finetune(student, teacher, blobs, CONFIG, LoopOptions(4, seed=1))), first)


def test_every_image_once_an_epoch_in_another_order(student, teacher, blobs):
    finetune(student, teacher, blobs, CONFIG, LoopOptions(4))
    orders = [[index for epoch, index in blobs.seen if epoch == wanted] for wanted in range(2)]
    assert [sorted(order) for order in orders] == [list(range(12))] * 2
    assert orders[0] != orders[1]


def test_a_linear_student_takes_the_step_that_can_be_computed_by_hand(blobs):
    """Adam's first step moves each weight by the learning rate against the sign of its gradient."""
    student = nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES))
    nn.init.zeros_(student[1].weight)
    nn.init.zeros_(student[1].bias)
    config = FinetuneConfig(epochs=1, lr=0.1, warmup=0.0, distill=0.0, label_smoothing=0.0, weight_decay=0.0)
    seen = []
    finetune(
        student,
        None,
        blobs,
        config,
        LoopOptions(batch_size=12, on_step=lambda step, metrics: seen.append((step, metrics))),
    )
    error = (torch.full((12, CLASSES), 1 / CLASSES) - torch.eye(CLASSES)[blobs.labels]) / 12
    gradient = error.T @ blobs.images.flatten(1)
    torch.testing.assert_close(student[1].weight.detach(), -0.1 * gradient.sign(), atol=1e-3, rtol=0)
    [(step, metrics)] = seen
    assert step == 1
    assert metrics == pytest.approx({"loss": math.log(3), "lr": 0.1, "grad_norm": gradient.norm().item()}, rel=1e-5)


def test_training_from_scratch_on_labels_learns(student, blobs):
    config = FinetuneConfig(epochs=15, lr=1e-2, distill=0.0)
    assert evaluate(finetune(student, None, blobs, config, LoopOptions(4)), blobs) == 1.0


def test_distillation_alone_follows_the_teacher_whatever_the_labels(student, teacher, blobs):
    blobs.labels.zero_()
    config = FinetuneConfig(epochs=30, lr=1e-2, distill=1.0)
    losses = []
    finetune(
        student,
        teacher,
        blobs,
        config,
        LoopOptions(4, on_step=lambda _, metrics: losses.append(metrics["loss"])),
    )
    assert losses[-1] < 0.05 * losses[0]


def test_the_teacher_stays_as_it_is(student, teacher, blobs):
    before, modes = weights(teacher), []
    teacher.train()
    teacher.register_forward_hook(lambda module, args, output: modes.append((module.training, output.requires_grad)))
    finetune(student, teacher, blobs, CONFIG, LoopOptions(4))
    assert modes == [(False, False)] * 6
    assert same(weights(teacher), before)
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_average_is_returned_when_there_is_one(student, blobs):
    """With a decay of zero after timm's first copy the average would be the weights; with 0.9 it lags behind."""
    averaged = FinetuneConfig(epochs=2, lr=1e-3, distill=0.0, ema_decay=0.9)
    plain = weights(finetune(copy.deepcopy(student), None, blobs, LABELS, LoopOptions(4)))
    assert not same(weights(finetune(student, None, blobs, averaged, LoopOptions(4))), plain)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stock_model_comes_out(student, teacher, blobs, precision):
    attributes = set(vars(student))
    result = finetune(student, teacher, blobs, RICH, LoopOptions(4, precision=precision))
    assert result is student
    assert not result.training
    assert set(vars(student)) == attributes
    assert all(p.dtype == torch.float32 and p.grad is None for p in student.parameters())


def test_both_models_run_in_bf16(student, teacher, blobs):
    seen = set()
    for model in (student, teacher):
        model.head.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    finetune(student, teacher, blobs, CONFIG, LoopOptions(4, precision="bf16"))
    assert seen == {torch.bfloat16}


def test_no_epochs_leave_the_student_as_it_is(student, teacher, blobs):
    before = weights(student)
    assert same(weights(finetune(student, teacher, blobs, FinetuneConfig(epochs=0))), before)


class BreaksAt(nn.Module):
    """A linear model whose outputs are multiplied by a value in one forward pass."""

    def __init__(self, step: int, value: float):
        super().__init__()
        self.linear, self.calls, self.step, self.value = nn.Linear(768, CLASSES), 0, step, value

    def forward(self, images):
        self.calls += 1
        logits = self.linear(images.flatten(1))
        return logits * self.value if self.calls == self.step else logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_restores_the_last_good_state(blobs, tmp_path, value):
    reference = BreaksAt(0, 1.0)
    student = copy.deepcopy(reference)
    student.step, student.value = 4, value
    with pytest.raises(Stop):
        finetune(reference, None, blobs, LABELS, LoopOptions(4, on_step=stop_at(3)))
    with pytest.raises(XPrunerError) as caught:
        finetune(student, None, blobs, LABELS, LoopOptions(4, state_dir=tmp_path))
    assert str(caught.value) == (
        f"The loss became nan at step 4; the last good state, of step 3, is kept in {tmp_path}: "
        "lower finetune.lr, now 0.001."
    )
    assert same(weights(student), weights(reference))
    student.step = 0
    finetune(student, None, blobs, LABELS, LoopOptions(4, state_dir=tmp_path))


def test_without_a_folder_the_model_keeps_the_last_good_weights(blobs):
    student = BreaksAt(1, math.nan)
    before = weights(student)
    with pytest.raises(XPrunerError, match=r"at step 1; the last good state, of step 0, is kept in the model: lower"):
        finetune(student, None, blobs, LABELS, LoopOptions(4))
    assert same(weights(student), before)


def test_gradients_that_are_no_numbers_are_noticed_before_the_update(blobs):
    student = BreaksAt(0, 1.0)
    student.linear.weight.register_hook(lambda gradient: gradient * math.nan)
    before = weights(student)
    with pytest.raises(XPrunerError, match=r"The gradients became nan at step 1; .* or use precision fp32"):
        finetune(student, None, blobs, LABELS, LoopOptions(4, precision="bf16"))
    assert same(weights(student), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "made with seed 0, not 1;"),
        ({"batch_size": 6}, "made with batch size 4, not 6;"),
        ({"precision": "bf16"}, "made with precision fp32, not bf16;"),
        ({"config": FinetuneConfig(epochs=2, lr=2e-3, distill=0.0)}, "made with lr 0.001, not 0.002;"),
        ({"student": nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES))}, "made with student shapes"),
    ],
    ids=["seed", "batch", "precision", "config", "student"],
)
def test_a_state_of_another_run_is_refused(student, blobs, tmp_path, change, message):
    finetune(student, None, blobs, LABELS, LoopOptions(4, state_dir=tmp_path))
    student, config = change.pop("student", student), change.pop("config", LABELS)
    with pytest.raises(UsageError, match=message):
        finetune(student, None, blobs, config, replace(LoopOptions(4, state_dir=tmp_path), **change))


def test_checkpoints_may_come_more_often_in_the_next_run(student, blobs, tmp_path):
    with pytest.raises(Stop):
        finetune(student, None, blobs, LABELS, LoopOptions(4, state_dir=tmp_path, on_step=stop_at(4)))
    often = FinetuneConfig(epochs=2, lr=1e-3, distill=0.0, checkpoint_every=1)
    finetune(student, None, blobs, often, LoopOptions(4, state_dir=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000005.safetensors",
        "step-00000006.safetensors",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "Precision fp16 needs a GPU; choose bf16 or fp32 on a CPU."),
        ({"batch_size": 0}, "A step of 0 images, of 12, trains nothing; both must be 1 or more."),
        ({"seed": -1}, "The seed is -1; it must be 0 or more."),
        ({"config": CONFIG}, "finetune.distill is 0.9 but there is no teacher; pass one, or set it to 0."),
        (
            {"config": FinetuneConfig(features=1.0, distill=0.0)},
            "finetune.features is 1.0, but must be 0 where finetune.distill is 0.",
        ),
        (
            {"config": FinetuneConfig(mixup=0.8), "batch_size": 3},
            "Mixup and cutmix pair the images of a batch, and 3 is odd; make it even.",
        ),
    ],
    ids=["fp16", "batch", "seed", "teacher", "features", "odd"],
)
def test_what_cannot_be_met_is_refused_in_a_sentence(student, blobs, options, message):
    config = options.pop("config", LABELS)
    with pytest.raises(UsageError) as caught:
        finetune(student, None, blobs, config, LoopOptions(**options))
    assert str(caught.value) == message
