"""Whether a model classifies as pruning takes it: each image into one class of several."""

from typing import Any

from xpruner.errors import UsageError

SINGLE_LABEL = "single_label_classification"


def check_single_label(model: Any) -> None:
    """Raises UsageError where a model of transformers says that its outputs are no classes that exclude each other."""
    kind = getattr(getattr(model, "config", None), "problem_type", None)
    if kind not in (None, SINGLE_LABEL):
        raise UsageError(
            f"The {type(model).__name__} has the problem_type {kind!r}, but masks, distillation and accuracy take an "
            f"image to be of one class; give a model for {SINGLE_LABEL}."
        )
