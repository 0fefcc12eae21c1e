"""Surgery: cut the weights, and every attribute that depends on them, so that a plan becomes a smaller model."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from xpruner.errors import UsageError
from xpruner.plan.plan import Plan
from xpruner.units import prunable_parts
from xpruner.units.adapters.timm.blocks import SkippedBlock
from xpruner.units.gates import channel_axis
from xpruner.units.modules.branch import ConstantBranch
from xpruner.units.modules.replace import replace_module
from xpruner.units.registry import PrunablePart, adapter_of


def apply(model: nn.Module, plan: Plan, *, inplace: bool = False) -> nn.Module:
    """Returns the model with only the units that the plan keeps; its outputs equal those of the gated model.

    Args:
        model: The model the plan was made for; it may have been pruned before.
        plan: Kept units in the numbering of this model. A group of heads or hidden units without kept ones loses its
            whole branch, which becomes the constant that its consumer's bias adds; a block that is not kept is skipped.
        inplace: Cut this very model instead of a copy.

    Raises:
        UsageError: If the plan was made for another model, or empties a group that must keep something.
    """
    parts = prunable_parts(model)
    plan.check({key: part.size for key, part in parts.items()})
    for key, indices in plan.keep.items():
        part = parts[key]
        if not indices and not (part.adapter.may_be_empty and part.adapter.gate(part.module).at != "norm"):
            raise UsageError(f"The plan keeps nothing of {key!r}; keep at least one unit of it.")
    model = model if inplace else copy.deepcopy(model)
    emptied: dict[str, PrunablePart] = {}
    for key in sorted(plan.keep, key=lambda key: len(parts[key].path)):  # blocks before what is inside them
        if not plan.keep[key] and not _within(parts[key], emptied):
            emptied[parts[key].path] = parts[key]
            replace_module(model, parts[key].path, _remains(model, parts[key]))
    for key, indices in plan.keep.items():
        if len(indices) < plan.sizes[key] and not _within(parts[key], emptied):
            _cut(model, parts[key], indices)
    return model


def _within(part: PrunablePart, emptied: Iterable[str]) -> bool:
    return any(f"{part.path}.".startswith(f"{path}.") for path in emptied)


def _cut(model: nn.Module, part: PrunablePart, indices: list[int]) -> None:
    whole = part.adapter.kind == "embed"  # its units run through the whole model
    module = model if whole else model.get_submodule(part.path)
    if not whole:
        able = part.adapter.resizable(module)
        if able is not module:
            replace_module(model, part.path, able)
            module = able
    adapter = part.adapter if whole else adapter_of(module, part.adapter.kind)
    adapter.cut(module, torch.tensor(indices))


def _remains(model: nn.Module, part: PrunablePart) -> nn.Module:
    if part.adapter.kind == "block":
        return SkippedBlock()
    module: Any = model.get_submodule(part.path)
    consumer = module.get_submodule(part.adapter.gate(module).path)
    bias = consumer.bias
    bias = bias if bias is not None else consumer.weight.new_zeros(consumer.weight.shape[0])
    return ConstantBranch(bias, channel_axis(consumer))
