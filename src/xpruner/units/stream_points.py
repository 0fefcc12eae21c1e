"""Where a branch leaves the residual stream and comes back: what sequential compensation aims at."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaBlock
from timm.models.swin_transformer import SwinTransformerBlock, window_partition
from timm.models.vision_transformer import Block
from torch import nn

PRE_NORM = (Block, SwinTransformerBlock, EvaBlock, BeitBlock)


@dataclass(frozen=True)
class StreamPoint:
    """Where a branch leaves the residual stream, and how its output comes back.

    Attributes:
        norm: Path of the norm whose input is the stream.
        scale: Layer scale of the branch, (dim,) or 1.
        arrange: Brings a stream tensor to the rows that the branch's consumer reads, such as Swin's shifted windows.
    """

    norm: str
    scale: torch.Tensor | float
    arrange: Callable[[torch.Tensor], torch.Tensor]


def stream_point(model: nn.Module, branch: str) -> StreamPoint | None:
    """Returns where the branch at a path reads the residual stream, where it is known to be added to it linearly.

    None for blocks that end a branch in a norm, and for blocks of other families.
    """
    path, _, name = branch.rpartition(".")
    block: Any = model.get_submodule(path)
    if type(block) not in PRE_NORM or name not in ("attn", "mlp"):
        return None
    number = "1" if name == "attn" else "2"
    scale = getattr(getattr(block, f"ls{number}", None), "gamma", None)
    if scale is None:
        scale = getattr(block, f"gamma_{number}", None)
    windowed = isinstance(block, SwinTransformerBlock) and name == "attn"
    return StreamPoint(
        f"{path}.norm{number}", 1.0 if scale is None else scale, partial(_windows, block) if windowed else _identity
    )


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


def _windows(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Shifts, pads and partitions a (batch, height, width, dim) stream as the block does before its attention."""
    shifted = torch.roll(x, [-shift for shift in block.shift_size], dims=(1, 2))
    pad = [-x.shape[axis + 1] % block.window_size[axis] for axis in (0, 1)]
    padded = torch.nn.functional.pad(shifted, (0, 0, 0, pad[1], 0, pad[0]))
    return window_partition(padded, block.window_size)
