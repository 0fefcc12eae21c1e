"""Gates: forward pre-hooks that multiply what a unit hands to the linear layer that consumes it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from xpruner.units import Units


@contextmanager
def gating(model: nn.Module, units: Units, gates: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Multiplies every unit's output by its gate while the block runs; every hook is gone afterwards.

    Args:
        model: The model whose units are gated.
        units: Its groups.
        gates: For a group's key its gates, (units,) for all samples alike or (batch, units) for each its own.
            Groups that are absent stay open.
    """
    handles = []
    try:
        for key, gate in gates.items():
            group = units[key]
            hook = _multiply(gate, group.width)
            handles.append(model.get_submodule(group.consumer).register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiply(gate: torch.Tensor, width: int):
    def hook(_module: nn.Module, args: tuple[torch.Tensor, ...]):
        x = args[0]
        return (x * spread(gate, x, width), *args[1:])

    return hook


def spread(gate: torch.Tensor, x: torch.Tensor, width: int) -> torch.Tensor:
    """Brings gates to the shape of the input they multiply.

    Args:
        gate: (units,) or (batch, units).
        x: (batch, ..., units x width); in windowed attention (batch x windows, ..., units x width), batch-major.
        width: Channels per unit.

    Returns:
        (units x width,) or (batch x windows, 1, ..., units x width), in the type of x and on its device.
    """
    gate = gate.to(x)
    if width > 1:
        gate = gate.repeat_interleave(width, -1)
    if gate.ndim == 1:
        return gate
    windows = x.shape[0] // gate.shape[0]
    if windows > 1:
        gate = gate.repeat_interleave(windows, 0)
    return gate.view(gate.shape[0], *[1] * (x.ndim - 2), gate.shape[1])
