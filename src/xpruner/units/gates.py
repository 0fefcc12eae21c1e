"""Gates: hooks that multiply the units' outputs, at the places that their groups name, for the length of a block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from xpruner.runtime.hooks import hooked
from xpruner.units.base import Gate, Units


def gating(model: nn.Module, units: Units, gates: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Multiplies every unit's output by its gate while the block runs.

    Args:
        model: The model whose units are gated.
        units: Its groups.
        gates: For a group's key its gates, (units,) for all samples alike or (batch, units) for each its own.
            Groups that are absent stay open.
    """
    return hooked(_hooks(model, units, gates))


def _hooks(model: nn.Module, units: Units, gates: Mapping[str, Tensor]) -> Iterator[RemovableHandle]:
    """Registers the hooks of all gates."""
    norms: dict[str, list[tuple[Gate, Tensor]]] = {}
    for key, values in gates.items():
        for gate in units[key].gates:
            if gate.at == "norm":
                norms.setdefault(gate.path, []).append((gate, values))
            else:
                yield _attach(model.get_submodule(gate.path), gate, values)
    for path, found in norms.items():  # all gates on a norm act together
        yield model.get_submodule(path).register_forward_hook(_on_norm(found))


def is_gated(model: nn.Module) -> bool:
    """Returns whether a :func:`gating` block is open on the model."""
    hooks = ({**module._forward_hooks, **module._forward_pre_hooks}.values() for module in model.modules())
    return any(getattr(hook, "__module__", None) == __name__ for of_module in hooks for hook in of_module)


def channel_axis(module: nn.Module) -> int:
    """Returns the dimension of a layer's input and output that holds the channels."""
    return 1 if isinstance(module, nn.Conv2d | nn.Conv1d | nn.ConvTranspose2d | nn.BatchNorm2d) else -1


def _attach(module: nn.Module, gate: Gate, values: Tensor) -> RemovableHandle:
    if gate.at == "input":
        return module.register_forward_pre_hook(_on_input(gate, values, channel_axis(module)))
    hooks: dict[str, Callable] = {"output": _on_output, "skip": _on_block}
    return module.register_forward_hook(hooks[gate.at](gate, values, channel_axis(module)))


def _on_input(gate: Gate, values: Tensor, axis: int):
    def hook(_module: nn.Module, args: tuple[Tensor, ...]):
        return (args[0] * expand_gates(values, args[0], gate, axis), *args[1:])

    return hook


def _on_output(gate: Gate, values: Tensor, axis: int):
    """Channels of the output behind those of the units, such as keys behind queries, stay open."""

    def hook(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor):
        return output * expand_gates(values, output, gate, axis)

    return hook


def _on_norm(gates: list[tuple[Gate, Tensor]]):
    """A LayerNorm over the open channels alone, where a channel that is half open counts half.

    As in torch's, sums are in single precision at least, and the type is that of the norm's own output.
    """

    def hook(norm: Any, args: tuple[Tensor, ...], output: Tensor):
        x = args[0].to(torch.promote_types(args[0].dtype, torch.float32))
        g = torch.ones_like(x)
        for gate, values in gates:
            g = g * expand_gates(values, x, gate)
        count = g.sum(-1, keepdim=True)
        mean = (g * x).sum(-1, keepdim=True) / count
        variance = (g * (x - mean).square()).sum(-1, keepdim=True) / count
        return (((x - mean) * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias) * g).to(output.dtype)

    return hook


def _on_block(_gate: Gate, values: Tensor, _axis: int):
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor):
        each = values.to(output).flatten()
        each = each.repeat_interleave(len(output) // len(each)).view(-1, *[1] * (output.ndim - 1))
        return torch.lerp(args[0].to(output), output, each)

    return hook


def expand_gates(values: Tensor, x: Tensor, gate: Gate, axis: int = -1) -> Tensor:
    """Brings gates to the shape of the channels they multiply.

    Args:
        values: (units,) or (batch, units).
        x: (batch, ..., channels); in windowed attention (batch x windows, ..., channels), batch-major.
        gate: How the channels are laid out; channels before and behind outer x units x inner get a gate of 1.
        axis: Dimension of x that holds the channels.

    Returns:
        A tensor in the type of x and on its device that broadcasts against it.
    """
    values = values.to(x)
    if gate.inner > 1:
        values = values.repeat_interleave(gate.inner, -1)
    if gate.outer > 1:
        values = values.repeat(*[1] * (values.ndim - 1), gate.outer)
    axis %= x.ndim
    behind = x.shape[axis] - values.shape[-1] - gate.before
    if gate.before or behind:
        values = F.pad(values, (gate.before, behind), value=1.0)
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    if values.ndim > 1:
        values = values.repeat_interleave(x.shape[0] // len(values), 0)
        shape[0] = len(values)
    return values.view(shape)
