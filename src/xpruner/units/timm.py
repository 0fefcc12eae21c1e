"""Adapters for timm: which modules of a VisionTransformer or SwinTransformer hold units, and how they are cut."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from xpruner._compat import declare_torchvision_ops
from xpruner.errors import UsageError
from xpruner.units.base import UnitGroup, register_adapter
from xpruner.units.branch import ConstantBranch

declare_torchvision_ops()

from timm.layers import Attention, Mlp
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention, window_partition
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer

MODELS = (VisionTransformer, SwinTransformer)
BLOCKS = (Block, ResPostBlock, SwinTransformerBlock)


def branches(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields (path, module) of every attention and MLP branch in forward order, empty branches left out.

    Raises:
        UsageError: If the model or one of its blocks is of an unknown class.
    """
    if not isinstance(model, MODELS):
        supported = ", ".join(cls.__name__ for cls in MODELS)
        raise UsageError(f"Cannot prune a {type(model).__name__}; supported are timm's {supported}.")
    for path, block in model.named_modules():
        parent, _, leaf = path.rpartition(".")
        if not (leaf.isdigit() and parent.split(".")[-1] == "blocks"):
            continue
        if type(block) not in BLOCKS:
            supported = ", ".join(cls.__name__ for cls in BLOCKS)
            raise UsageError(
                f"Cannot prune {path!r}: its class {type(block).__name__} has no adapter; supported are {supported}."
            )
        for name in ("attn", "mlp"):
            branch = block.get_submodule(name)
            if not isinstance(branch, ConstantBranch):
                yield f"{path}.{name}", branch


@dataclass(frozen=True)
class StreamPoint:
    """Where a branch leaves the residual stream, and how its output comes back.

    Attributes:
        norm: Path of the norm whose input is the stream.
        aims_at_stream: Whether the branch's output is added to the stream as a linear function of its consumer's.
        scale: Layer scale of the branch, (dim,) or 1.
        arrange: Brings a stream tensor to the rows that the branch's consumer reads, such as Swin's shifted windows.
    """

    norm: str
    aims_at_stream: bool
    scale: torch.Tensor | float
    arrange: Callable[[torch.Tensor], torch.Tensor]


def stream_point(model: nn.Module, group: UnitGroup) -> StreamPoint:
    """Returns where the branch of a group reads the residual stream."""
    path = group.module.rpartition(".")[0]
    block: Any = model.get_submodule(path)
    number = "1" if group.kind == "head" else "2"
    scale = getattr(getattr(block, f"ls{number}", None), "gamma", 1.0)
    windowed = isinstance(block, SwinTransformerBlock) and group.kind == "head"
    arrange = partial(_windows, block) if windowed else _identity
    if isinstance(block, ResPostBlock):
        return StreamPoint(f"{path}.{'attn' if group.kind == 'head' else 'mlp'}", False, 1.0, _identity)
    return StreamPoint(f"{path}.norm{number}", True, scale, arrange)


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


def _windows(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Shifts, pads and partitions a (batch, height, width, dim) stream as the block does before its attention."""
    shifted = torch.roll(x, [-shift for shift in block.shift_size], dims=(1, 2))
    pad = [-x.shape[axis + 1] % block.window_size[axis] for axis in (0, 1)]
    padded = torch.nn.functional.pad(shifted, (0, 0, 0, pad[1], 0, pad[0]))
    return window_partition(padded, block.window_size)


def _select(parameter: torch.Tensor, keep: torch.Tensor, dim: int) -> nn.Parameter:
    return nn.Parameter(parameter.detach().index_select(dim, keep), requires_grad=parameter.requires_grad)


def _slice_linear(linear: nn.Linear, keep: torch.Tensor, dim: int) -> None:
    """Keeps the output rows (dim 0) or input columns (dim 1) of a linear layer, in place."""
    linear.weight = _select(linear.weight, keep, dim)
    if dim == 1:
        linear.in_features = len(keep)
        return
    linear.out_features = len(keep)
    if linear.bias is not None:
        linear.bias = _select(linear.bias, keep, 0)


@register_adapter(Attention)
class HeadAdapter:
    """Heads of timm's Attention: rows of qkv (and of the output gate), columns of proj."""

    kind = "head"
    consumer = "proj"

    def refuse(self, module: Any) -> str | None:
        if not isinstance(getattr(module, "norm", nn.Identity()), nn.Identity):
            return "its norm spans all heads, so cutting one head would change the others"
        return None

    def size(self, module: Any) -> int:
        return module.num_heads

    def width(self, module: Any) -> int:
        return module.proj.in_features // module.num_heads

    def _producers(self, module: Any) -> list[nn.Linear]:
        gate = getattr(module, "gate", None)
        return [module.qkv] if gate is None else [module.qkv, gate]

    def macs(self, module: Any, shape: torch.Size) -> float:
        """Linear layers for every token, plus scores and values: 2 x tokens x window tokens x head dim."""
        tokens, window = shape[:-1].numel(), shape[-2]
        linear = sum(layer.weight.numel() for layer in (*self._producers(module), module.proj)) / self.size(module)
        return tokens * (linear + 2 * window * self.width(module))

    def params(self, module: Any) -> int:
        rows = sum(p.numel() for layer in self._producers(module) for p in layer.parameters())
        return (rows + module.proj.weight.numel()) // self.size(module)

    def cut(self, module: Any, keep: torch.Tensor) -> None:
        """``scale`` and ``head_dim`` keep their dense values: a head itself does not change."""
        width = self.width(module)
        columns = (keep[:, None] * width + torch.arange(width, device=keep.device)).flatten()
        for layer in self._producers(module):
            stacks = layer.out_features // module.proj.in_features  # q, k and v lie stacked in one layer
            rows = torch.arange(stacks, device=keep.device)[:, None] * module.proj.in_features + columns
            _slice_linear(layer, rows.flatten(), 0)
        _slice_linear(module.proj, columns, 1)
        module.num_heads = len(keep)
        if hasattr(module, "attn_dim"):
            module.attn_dim = len(columns)


@register_adapter(WindowAttention)
class WindowHeadAdapter(HeadAdapter):
    """Heads of Swin's window attention, each with its column of the relative-position bias table."""

    def params(self, module: Any) -> int:
        return super().params(module) + len(module.relative_position_bias_table)

    def cut(self, module: Any, keep: torch.Tensor) -> None:
        super().cut(module, keep)
        module.relative_position_bias_table = _select(module.relative_position_bias_table, keep, 1)


@register_adapter(Mlp)
class HiddenAdapter:
    """Hidden units of timm's Mlp: a row of fc1 and a column of fc2."""

    kind = "hidden"
    consumer = "fc2"

    def refuse(self, module: Any) -> str | None:
        if not isinstance(module.norm, nn.Identity):
            return "its norm spans all hidden units, so cutting one would change the others"
        if not isinstance(module.fc1, nn.Linear):
            return "it is built of convolutions"
        return None

    def size(self, module: Any) -> int:
        return module.fc1.out_features

    def width(self, module: Any) -> int:
        return 1

    def macs(self, module: Any, shape: torch.Size) -> float:
        return shape[:-1].numel() * (module.fc1.in_features + module.fc2.out_features)

    def params(self, module: Any) -> int:
        return module.fc1.in_features + module.fc2.out_features + (module.fc1.bias is not None)

    def cut(self, module: Any, keep: torch.Tensor) -> None:
        _slice_linear(module.fc1, keep, 0)
        _slice_linear(module.fc2, keep, 1)
