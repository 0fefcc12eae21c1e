"""Checks of a configuration that need neither model nor images, made before anything is computed."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_type_hints

from xpruner.config.options import (
    CompensateConfig,
    DataConfig,
    FinetuneConfig,
    MaskConfig,
    ModelConfig,
    RunConfig,
    SearchConfig,
    ThresholdConfig,
)
from xpruner.config.typed import typed
from xpruner.errors import UsageError

Rule = tuple[str, Callable[[Any], bool], str]
"""A field, a predicate on the whole dataclass, and what the field must be."""

LARGEST_SEED = 2**32 - 1
"""The largest that numpy, torch and Python's random all accept."""
MOST_ROUNDS = 100


def _at_least(name: str, least: float) -> Rule:
    return name, lambda config: getattr(config, name) is None or getattr(config, name) >= least, f"{least:g} or more"


def _positive(name: str) -> Rule:
    return name, lambda config: getattr(config, name) > 0, "positive"


def _share(name: str) -> Rule:
    return name, lambda config: getattr(config, name) is None or 0 <= getattr(config, name) <= 1, "between 0 and 1"


def _below_one(name: str) -> Rule:
    return name, lambda config: 0 <= getattr(config, name) < 1, "0 or more and below 1"


def _inside(name: str) -> Rule:
    return name, lambda config: 0 < getattr(config, name) < 1, "above 0 and below 1"


RULES: dict[type, list[Rule]] = {
    ModelConfig: [
        _at_least("num_classes", 2),
        _at_least("img_size", 1),
        ("mean", lambda model: model.mean is None or len(model.mean) == 3, "three numbers, one a channel"),
        (
            "std",
            lambda model: model.std is None or (len(model.std) == 3 and min(model.std) > 0),
            "three positive numbers",
        ),
        ("crop_pct", lambda model: model.crop_pct is None or model.crop_pct > 0, "above 0"),
    ],
    DataConfig: [
        _at_least("train_size", 1),
        _at_least("val_size", 0),
        _at_least("test_size", 1),
        _inside("test_share"),
        _at_least("calibration_size", 2),  # the units do not vary over one image
        _at_least("batch_size", 1),
        _at_least("workers", 0),
        _at_least("max_unreadable", 0),
    ],
    MaskConfig: [
        _share("whole"),
        _positive("temperature"),
        _at_least("steps", 0),
        _positive("lr"),
        _inside("init"),
        _at_least("rank", 1),
        _share("wrong"),
        ("mean", lambda masks: 0 <= masks.mean <= 1 - masks.wrong, "between 0 and 1 - masks.wrong"),
        _at_least("sparsity", 0),
        _at_least("smooth_weight", 0),
    ],
    ThresholdConfig: [
        _at_least("steps", 0),
        _positive("lr"),
        _at_least("mask_lr", 0),
        _positive("slope_start"),
        _positive("slope_end"),
        _share("warmup"),
        _at_least("refit_every", 1),
        (
            "constraint",
            lambda thresholds: thresholds.constraint == "projected" or not thresholds.compensated,
            "projected when compensated",
        ),
    ],
    SearchConfig: [_at_least("steps", 0)],
    CompensateConfig: [_at_least("ridge", 0), _share("focus"), _at_least("steps", 0), _positive("lr")],
    FinetuneConfig: [
        _at_least("epochs", 0),
        _at_least("steps", 0),
        _positive("lr"),
        ("min_lr", lambda recipe: 0 <= recipe.min_lr <= recipe.lr, "between 0 and finetune.lr"),
        _below_one("warmup"),
        _at_least("weight_decay", 0),
        _positive("clip_grad"),
        _share("distill"),
        _positive("temperature"),
        _at_least("features", 0),
        ("features", lambda recipe: recipe.features == 0 or recipe.distill > 0, "0 where finetune.distill is 0"),
        _below_one("label_smoothing"),
        _at_least("mixup", 0),
        _at_least("cutmix", 0),
        _below_one("ema_decay"),
        _at_least("checkpoint_every", 1),
    ],
    RunConfig: [
        ("output", lambda run: bool(run.output.strip()), "a folder, such as runs/half"),
        ("output", lambda run: _is_unicode(run.output), "a path in UTF-8, as weights are written to no other"),
        ("units", lambda run: run.units is None or len(run.units) > 0, "one kind of unit or more, or absent"),
        ("rounds", lambda run: 1 <= run.rounds <= MOST_ROUNDS, f"between 1 and {MOST_ROUNDS}"),
        (
            "max_class_drop",
            lambda run: run.max_class_drop is None or run.max_class_drop > 0,
            "above 0, such as 2 percentage points",
        ),
        ("seed", lambda run: 0 <= run.seed <= LARGEST_SEED, f"between 0 and {LARGEST_SEED}"),
        ("latency", lambda run: all(size >= 1 for size in run.latency), "a list of batch sizes, each 1 or more"),
    ],
}


def check(config: Any, prefix: str = "") -> None:
    """Raises UsageError for the first option of a dataclass, or of those in it, of a wrong type or out of range.

    Args:
        config: A RunConfig, one of its parts, or any dataclass that holds some of them.
        prefix: Put before the names of its fields in messages, such as ``finetune.``.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, kind):  # type: ignore[arg-type]
                raise UsageError(f"{prefix}{name} is {value!r}, but must be a {kind.__name__}.")  # type: ignore[union-attr]
            check(value, f"{prefix}{name}.")
        else:
            _check_type(kind, value, f"{prefix}{name}")
    for name, holds, demand in RULES.get(type(config), []):
        if not holds(config):
            raise UsageError(f"{prefix}{name} is {getattr(config, name)!r}, but must be {demand}.")


def _is_unicode(path: str) -> bool:
    """Returns whether a path can be written in UTF-8; Python keeps other bytes as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _check_type(kind: Any, value: Any, name: str) -> None:
    try:
        typed(kind, value, name)
    except ValueError as error:
        raise UsageError(f"{error}.") from error
