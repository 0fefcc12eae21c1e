"""What is wrong with a configuration is reported in one sentence, with the value and what it must be."""

from dataclasses import replace

import pytest

from xpruner.config import (
    CompensateConfig,
    DataConfig,
    FinetuneConfig,
    MaskConfig,
    ModelConfig,
    RunConfig,
    SearchConfig,
    ThresholdConfig,
    preset,
)
from xpruner.config.checks import check
from xpruner.errors import UsageError

NAN, INF = float("nan"), float("inf")
WRONG = {
    ModelConfig: [("num_classes", 1), ("num_classes", 0), ("img_size", 0), ("kwargs", ["depth"]), ("name", 5)],
    DataConfig: [
        ("train_size", 0), ("val_size", -1), ("test_size", 0), ("test_share", 0.0), ("test_share", 1.0),
        ("calibration_size", 1), ("batch_size", 0), ("workers", -1), ("max_unreadable", -1), ("cache", "no"),
        ("augment", "strong"),
    ],
    MaskConfig: [
        ("whole", 1.5), ("temperature", 0.0), ("steps", -1), ("lr", 0.0), ("init", 1.0), ("rank", 0), ("wrong", 1.5),
        ("mean", 0.8), ("sparsity", -1.0), ("smooth_weight", -1.0), ("smooth", "space"), ("temperature", INF),
    ],
    ThresholdConfig: [
        ("steps", -1), ("lr", 0.0), ("mask_lr", -1.0), ("slope_start", 0.0), ("slope_end", 0.0), ("warmup", 2.0),
        ("refit_every", 0), ("constraint", "hinge"), ("form", "tanh"),
    ],
    SearchConfig: [("steps", -1), ("allocation", "fair")],
    CompensateConfig: [
        ("ridge", -1), ("ridge", NAN), ("focus", -0.1), ("focus", 1.5), ("mode", "magic"), ("steps", -1), ("lr", 0.0),
    ],
    FinetuneConfig: [
        ("epochs", -1), ("epochs", 2.5), ("steps", -1), ("lr", 0.0), ("lr", -1.0), ("lr", NAN), ("min_lr", 1.0),
        ("warmup", 1.0), ("weight_decay", -0.1), ("clip_grad", 0.0), ("distill", 1.1), ("temperature", 0.0),
        ("features", -1.0), ("label_smoothing", 1.0), ("mixup", -1.0), ("cutmix", -1.0), ("ema_decay", 1.0),
        ("checkpoint_every", 0), ("teacher", 3),
    ],
    RunConfig: [
        ("output", ""), ("output", " "), ("output", "caf\udce9"),
        ("units", []), ("rounds", 0), ("rounds", 100000), ("max_class_drop", 0.0),
        ("seed", -1), ("seed", 10**20), ("seed", True), ("latency", [0]), ("latency", [1, -1]), ("precision", "int8"),
        ("budget", 0.5), ("round_to", "16"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("options", "name", "value"), [(kind, *case) for kind in WRONG for case in WRONG[kind]])
def test_a_wrong_value_is_named_with_what_it_must_be(options, name, value):
    with pytest.raises(UsageError) as told:
        check(replace(options(), **{name: value}), "part.")
    assert str(told.value).startswith(f"part.{name} is {value!r}, but must be ")
    assert str(told.value).endswith(".")


@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_presets_are_in_range(name):
    check(preset(name))


def test_a_part_is_named_by_its_place_in_the_run():
    with pytest.raises(UsageError, match=r"^finetune\.lr is -1\.0, but must be positive\.$"):
        check(RunConfig(finetune=FinetuneConfig(lr=-1.0)))


def test_a_part_that_is_none_is_refused():
    with pytest.raises(UsageError, match=r"^finetune is {'epochs': 0}, but must be a FinetuneConfig\.$"):
        check(RunConfig(finetune={"epochs": 0}))


def test_features_need_a_teacher():
    with pytest.raises(UsageError, match=r"features is 1.0, but must be 0 where finetune.distill is 0"):
        check(FinetuneConfig(features=1.0, distill=0.0), "finetune.")


def test_a_whole_number_passes_for_a_float():
    check(FinetuneConfig(clip_grad=1, mixup=0))
