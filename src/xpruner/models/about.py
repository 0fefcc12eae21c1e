"""What is known of a model besides its weights: how its images are prepared, its classes, how accurate it was."""

import logging
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from xpruner.data.class_names import Classes
from xpruner.data.spec import InputSpec
from xpruner.runtime.outputs import classes_of

log = logging.getLogger("xpruner")

FAR, ERRORS = 0.03, 3
"""A drop from the noted top-1, and a number of standard errors, that other kernels or images do not explain."""
FEW = 20
"""With fewer images, no warning."""
UNNAMED = "LABEL_"
"""Prefix, before a number, of the names that transformers gives to unnamed classes."""


@dataclass(frozen=True)
class About:
    """Notes that come with a model; copies of the model keep them.

    Attributes:
        input: The images that it expects, where that is known from more than its architecture.
        class_names: Of its outputs in order.
        top1: Its accuracy, 0 to 1, as noted beside it.
    """

    input: InputSpec | None = None
    class_names: tuple[str, ...] | None = None
    top1: float | None = None


def about(model: nn.Module) -> About:
    """Returns the notes on a model; empty ones where there are none."""
    return getattr(model, "xpruner_about", None) or About()


def note(model: Any, **known: Any) -> None:
    """Adds notes to a model, by the names of :class:`About`."""
    model.xpruner_about = replace(about(model), **known)


def known_classes(model: Any) -> Classes:
    """Returns how many classes a classifier of timm or transformers has, and their names where it knows them."""
    count = classes_of(model)
    names = about(model).class_names or _of_transformers(model) or _of_timm(model)
    return Classes(count, tuple(map(str, names)) if names and len(names) == count else None)


def warn_of_accuracy(model: nn.Module, top1: float, images: int) -> None:
    """Logs a warning where a dense model is hardly better than chance, or far worse than noted beside it.

    Args:
        model: The model.
        top1: Its accuracy on the data at hand, 0 to 1.
        images: Number of images that it was measured on.
    """
    if images < FEW:
        return
    count, noted = classes_of(model), about(model).top1
    chance = 1 / count
    if top1 <= chance + ERRORS * (chance * (1 - chance) / images) ** 0.5:
        seen = f"near chance ({chance:.2%} for {count} classes)"
    elif noted is not None and top1 < noted - max(FAR, ERRORS * (noted * (1 - noted) / images) ** 0.5):
        seen = f"far below the {noted:.2%} that its folder notes"
    else:
        return
    log.warning(
        "The dense model's top-1 of %.2f %% is %s; check the preprocessing (model.mean, std, interpolation, crop_pct), "
        "the order of the classes (data.class_order) and the checkpoint.", 100 * top1, seen,
    )  # fmt: skip


def _of_transformers(model: Any) -> list[str] | None:
    labels = getattr(getattr(model, "config", None), "id2label", None) or {}
    names = [str(labels[number]) for number in sorted(labels, key=int)]
    return None if all(name == f"{UNNAMED}{number}" for number, name in enumerate(names)) else names


def _of_timm(model: Any) -> Any:
    return (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
