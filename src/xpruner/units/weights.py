"""Which weights belong to which unit: what surgery would cut with it."""

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from xpruner.units import Units, prunable_parts
from xpruner.units.adapter import PrunablePart
from xpruner.units.slices import Slice


def resizable_copy(model: nn.Module, units: Units) -> nn.Module:
    """Returns a copy that computes the same, in which every tensor can be separated by units.

    Attention that stacks queries, keys and values in one layer has them in layers of their own there, where units of
    the kinds ``qk`` or ``v`` are asked for.
    """
    model = copy.deepcopy(model)
    parts = prunable_parts(model)
    for group in units:
        parts[group.key].resized(model)
    return model


def unit_weights(
    model: nn.Module, units: Units, of: Callable[[nn.Parameter], Tensor] = torch.Tensor.detach
) -> dict[str, list[Tensor]]:
    """Returns for each group's key one (units, numbers) tensor for every parameter that surgery cuts with its units.

    Args:
        model: From :func:`resizable_copy`, where the kinds are not ``head`` and ``hidden`` alone.
        units: Its groups; those of the kind ``block`` own every parameter inside them.
        of: Maps a parameter to a tensor of its shape: itself, or itself times its gradient; called once for each.
    """
    parts, wanted = prunable_parts(model), cache(of)
    return {group.key: list(_weights(parts[group.key], wanted)) for group in units}


def _weights(part: PrunablePart, of: Callable[[nn.Parameter], Tensor]):
    parameters = dict(part.module.named_parameters())
    for where in part.adapter.slices(part.module):
        if where.tensor in parameters:
            yield _by_unit(of(parameters[where.tensor]), where, part.size)


def _by_unit(tensor: Tensor, where: Slice, size: int) -> Tensor:
    """Returns the (units, numbers) of a tensor whose axis reads (outer, units, inner)."""
    channels = tensor.movedim(where.axis, 0)[where.start : where.stop]
    return channels.reshape(where.outer, size, -1).transpose(0, 1).reshape(size, -1)
