"""Surgery: cut the weights, and every attribute that depends on them, so that a plan becomes a smaller model."""

import copy
from typing import Any

import torch
from torch import nn

from xpruner.plan import Plan
from xpruner.units import prunable_parts
from xpruner.units.branch import ConstantBranch


def apply(model: nn.Module, plan: Plan, *, inplace: bool = False) -> nn.Module:
    """Returns the model with only the units that the plan keeps; its outputs equal those of the gated model.

    Args:
        model: The model the plan was made for; it may have been pruned before.
        plan: Kept units in the numbering of this model. A group without kept units loses its whole branch, which
            becomes the constant that its consumer's bias adds.
        inplace: Cut this very model instead of a copy.

    Raises:
        UsageError: If the plan was made for another model.
    """
    plan.check({key: part.adapter.size(part.module) for key, part in prunable_parts(model).items()})
    model = model if inplace else copy.deepcopy(model)
    parts = prunable_parts(model)
    for key, indices in plan.keep.items():
        part = parts[key]
        if not indices:
            parent, _, name = part.path.rpartition(".")
            setattr(model.get_submodule(parent), name, _constant(model.get_submodule(part.consumer)))
        elif len(indices) < plan.sizes[key]:
            device = next(part.module.parameters()).device
            part.adapter.cut(part.module, torch.tensor(indices, device=device))
    return model


def _constant(consumer: Any) -> ConstantBranch:
    bias = consumer.bias
    return ConstantBranch(bias if bias is not None else consumer.weight.new_zeros(consumer.weight.shape[0]))
