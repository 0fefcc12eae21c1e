"""Surgery: cut the weights, and every attribute that depends on them, so that a plan becomes a smaller model."""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from xpruner.errors import UsageError
from xpruner.plan.plan import Plan
from xpruner.units import prunable_parts
from xpruner.units.adapter import PrunablePart
from xpruner.units.gates import is_gated
from xpruner.units.modules.replace import replace_module


def apply(model: nn.Module, plan: Plan, *, inplace: bool = False) -> nn.Module:
    """Returns the model with only the units that the plan keeps; its outputs equal those of the gated model.

    Args:
        model: The model the plan was made for; it may have been pruned before.
        plan: Kept units in the numbering of this model. A group of heads or hidden units of which none is kept loses
            its whole branch, which becomes the constant of its consumer's bias; a block that is not kept is skipped.
        inplace: Cut this model instead of a copy.

    Raises:
        UsageError: If the plan was made for another model, or empties a group that must keep something; or the model
            is gated now, as its gates would act on the cut model too.
    """
    if is_gated(model):
        raise UsageError("The model is gated; apply the plan after the `with gating` block.")
    parts = prunable_parts(model)
    plan.check({key: part.size for key, part in parts.items()})
    remains = _remains(parts, plan)
    model = model if inplace else copy.deepcopy(model)
    replaced: list[PrunablePart] = []
    for key in sorted(remains, key=lambda key: len(parts[key].path)):  # blocks before what is inside them
        if not _within(parts[key], replaced):
            replaced.append(parts[key])
            replace_module(model, parts[key].location, remains[key])
    for key, indices in plan.keep.items():
        if len(indices) < plan.sizes[key] and not _within(parts[key], replaced):
            parts[key].adapter.cut(parts[key].resized(model), torch.tensor(indices))
    return model


def _remains(parts: Mapping[str, PrunablePart], plan: Plan) -> dict[str, nn.Module]:
    """Returns by key the module that replaces each part of which the plan keeps nothing."""
    remains = {}
    for key in (key for key, indices in plan.keep.items() if not indices):
        rest = parts[key].adapter.remains(parts[key].module)
        if rest is None:
            raise UsageError(f"The plan keeps nothing of {key!r}; keep at least one unit of it.")
        remains[key] = rest
    return remains


def _within(part: PrunablePart, replaced: Iterable[PrunablePart]) -> bool:
    return any(other.contains(part.location) for other in replaced)
