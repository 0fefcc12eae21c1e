"""Attention probabilities of every block, recorded in one forward pass, and the place of each token in the windows."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models.swin_transformer import window_partition
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from xpruner.maps.anatomy import Anatomy, BlockPart
from xpruner.runtime.outputs import logits_of
from xpruner.units.stream_points import stream_point


@dataclass(frozen=True)
class AttentionRecord:
    """The attention of one block.

    Attributes:
        path: Of the block.
        probabilities: (batch x windows, heads, area, area), batch-major, in the graph of the logits; None for a block
            without attention. Where attention is not windowed there is one window with all tokens.
        slots: (windows, area) number of the token in each place of the windows, counted from 1; 0 for padding.
        grid: (rows, columns) of the patches that enter the block.
        cell: (height, width) in pixels of one of them.
    """

    path: str
    probabilities: Tensor | None
    slots: Tensor | None
    grid: tuple[int, int]
    cell: tuple[int, int]


def record_attention(model: nn.Module, anatomy: Anatomy, images: Tensor) -> tuple[Tensor, list[AttentionRecord]]:
    """Runs a model once and records its attention.

    Returns:
        The logits (batch, classes), and the attention of each block, in forward order.
    """
    probabilities: dict[str, Tensor] = {}
    grids: dict[str, tuple[int, int]] = {}
    with ExitStack() as stack:
        stack.enter_context(explicit_attention(model))
        stack.enter_context(anatomy.patches.register_forward_hook(partial(_note_first_grid, grids)))
        for block in anatomy.blocks:
            stack.enter_context(block.module.register_forward_pre_hook(partial(_note_grid, grids, block.path, anatomy)))
        for block in anatomy.attending:
            stack.enter_context(on_attention(block.attention, partial(probabilities.__setitem__, block.path)))
        logits = logits_of(model(images))
    height, width = anatomy.patches.stride
    records: list[AttentionRecord] = []
    for block in anatomy.blocks:
        grid = grids[block.path]
        if records and grid != records[-1].grid:  # patches were merged
            height, width = 2 * height, 2 * width
        slots = None if block.attention is None else _slots(model, anatomy, block, grid).to(images.device)
        records.append(AttentionRecord(block.path, probabilities.get(block.path), slots, grid, (height, width)))
    return logits, records


@contextmanager
def explicit_attention(model: Any) -> Iterator[None]:
    """Makes attention compute its probabilities, which the fused kernels do not return, while the block runs."""
    if hasattr(model, "set_attn_implementation"):
        kind = model.config._attn_implementation
        try:
            model.set_attn_implementation("eager")
            yield
        finally:
            model.set_attn_implementation(kind)
        return
    with _off(model, "fused_attn"), _off(model, "grad_checkpointing"):  # the latter runs blocks again, without hooks
        yield


@contextmanager
def _off(model: nn.Module, flag: str) -> Iterator[None]:
    on: list[Any] = [module for module in model.modules() if getattr(module, flag, False)]
    try:
        for module in on:
            setattr(module, flag, False)
        yield
    finally:
        for module in on:
            setattr(module, flag, True)


def on_attention(attention: Any, receive: Callable[[Tensor], None]) -> RemovableHandle:
    """Calls a function with the probabilities of a module's attention, whenever they are computed explicitly."""
    if hasattr(attention, "attn_drop"):
        return attention.attn_drop.register_forward_hook(lambda _module, _args, output: receive(output))
    return attention.register_forward_hook(lambda _module, _args, output: receive(output[1]))


def _note_first_grid(grids: dict, _patches: nn.Module, _args: tuple, output: Tensor) -> None:
    grids[""] = tuple(output.shape[-2:])


def _note_grid(grids: dict, path: str, anatomy: Anatomy, _block: nn.Module, args: tuple) -> None:
    if not anatomy.windowed:
        grids[path] = grids[""]
    elif args[0].ndim == 4:  # timm's Swin: (batch, rows, columns, dim)
        grids[path] = tuple(args[0].shape[1:3])
    else:  # that of transformers: (batch, tokens, dim), and the grid beside it
        grids[path] = tuple(args[1])


def _slots(model: nn.Module, anatomy: Anatomy, block: BlockPart, grid: tuple[int, int]) -> Tensor:
    numbers = torch.arange(1, anatomy.prefix + grid[0] * grid[1] + 1)
    if not anatomy.windowed:
        return numbers[None]
    return _windows_of(model, block)(numbers.view(1, *grid, 1)).flatten(1)


def _windows_of(model: nn.Module, block: BlockPart) -> Callable[[Tensor], Tensor]:
    """Returns what brings a (batch, rows, columns, dim) tensor to a Swin block's windows; padding is 0."""
    point = stream_point(model, f"{block.path}.attn") if hasattr(block.module, "attn") else None
    return partial(_windows_of_transformers, block.module) if point is None else point.arrange


def _windows_of_transformers(block: Any, x: Tensor) -> Tensor:
    """Unlike timm's, this Swin pads before it shifts."""
    pad = [-x.shape[axis] % block.window_size for axis in (1, 2)]
    padded = F.pad(x, (0, 0, 0, pad[1], 0, pad[0]))
    shifted = torch.roll(padded, (-block.shift_size, -block.shift_size), dims=(1, 2))
    return window_partition(shifted, (block.window_size, block.window_size))
