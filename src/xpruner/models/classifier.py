"""Checks that a model assigns each image to one class of several, and cuts its classes."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from xpruner.errors import UsageError
from xpruner.runtime.outputs import classifiers

SINGLE_LABEL = "single_label_classification"


def check_single_label(model: Any) -> None:
    """Raises UsageError where a model of transformers states that its outputs are not mutually exclusive classes."""
    kind = getattr(getattr(model, "config", None), "problem_type", None)
    if kind not in (None, SINGLE_LABEL):
        raise UsageError(
            f"The {type(model).__name__} has the problem_type {kind!r}, but masks, distillation and accuracy assume "
            f"one class an image; give a model for {SINGLE_LABEL}."
        )


def keep_classes(model: nn.Module, labels: Sequence[int]) -> nn.Module:
    """Returns a copy of a classifier with some of its outputs, in this order, and unchanged logits.

    Raises:
        UsageError: If the logits do not come from linear layers.
    """
    model = copy.deepcopy(model)
    paths = classifiers(model)
    if not paths:
        raise UsageError(f"The classifier of {type(model).__name__} is no linear layer, and cannot be cut to classes.")
    for path in paths:
        layer: Any = model.get_submodule(path)
        layer.weight = nn.Parameter(layer.weight.detach()[list(labels)].clone())
        layer.out_features = len(labels)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[list(labels)].clone())
    whole: Any = model
    if hasattr(whole, "num_classes"):
        whole.num_classes = len(labels)
    else:
        whole.config.num_labels = whole.num_labels = len(labels)
    return model
