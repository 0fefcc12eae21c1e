"""Checks a dense model that the caller passes, and copies it so that theirs is not changed."""

import copy
from typing import Any

import torch
from torch import nn

from xpruner.models.classifier import check_single_label
from xpruner.models.tensors import check_weights, in_float32
from xpruner.units.wrappers import check_module


def own_copy(model: nn.Module) -> nn.Module:
    """Returns a copy of a module in float32 and eval mode.

    Raises:
        UsageError: If something wraps the model or changed its layers, its weights are not finite or not of floating
            point, or it does not assign images to one class of several.
    """
    check_module(model)
    check_single_label(model)
    name = f"the {type(model).__name__}"
    check_weights(model, name)
    in_float32(dict(model.named_parameters()), name)
    mine: Any = copy.deepcopy(model).float().eval()
    if getattr(getattr(mine, "config", None), "dtype", None) is not None:
        mine.config.dtype = torch.float32  # of transformers, written beside the weights
    return mine
