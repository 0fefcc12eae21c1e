"""A row of attention followed through the blocks, from what the classifier reads back to the patches.

Rollout and relevance are products of (tokens x tokens) matrices of which one row is read. A row times the last matrix,
times the one before, and so on, never forms such a product, and goes through Swin window by window. Sums are in double
precision: what a block adds to the identity can be a millionth of it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from xpruner.maps.anatomy import Anatomy
from xpruner.maps.attention import AttentionRecord


def first_row(anatomy: Anatomy, record: AttentionRecord, images: Tensor) -> Tensor:
    """Returns the (batch, tokens) row at the last block: how much the classifier reads of each token, 1 in all."""
    row = torch.zeros(
        len(images), anatomy.prefix + record.grid[0] * record.grid[1], device=images.device, dtype=torch.float64
    )
    for part in anatomy.reads:
        row[:, part] += 1 / len(anatomy.reads) / row[:, part].shape[1]
    return row


def follow(
    row: Tensor, records: Sequence[AttentionRecord], matrix_of: Callable[[AttentionRecord], Tensor] | None
) -> Tensor:
    """Multiplies a row by the matrices of the blocks, from the last to the first.

    Args:
        row: (batch, tokens) of the last block.
        records: Of the blocks, in forward order.
        matrix_of: Returns the (batch x windows, area, area) matrix of a block that has attention; the others' is the
            identity. None: that of all is.

    Returns:
        (batch, tokens) of the first block. A token that was merged of 2 x 2 passes a quarter to each of them
        [our choice].
    """
    grid = records[-1].grid
    for record in reversed(records):
        if record.grid != grid:
            row, grid = _unmerge(row, grid, record.grid), record.grid
        if matrix_of is not None and record.slots is not None:
            row = _step(row, matrix_of(record), record.slots)
    return row


def with_identity(matrix: Tensor) -> Tensor:
    """Returns matrix + I in double precision."""
    return matrix.double() + torch.eye(matrix.shape[-1], device=matrix.device, dtype=torch.float64)


def patch_map(row: Tensor, anatomy: Anatomy, record: AttentionRecord) -> Tensor:
    """Returns the (batch, rows, columns) part of a row that belongs to the patches."""
    return row[:, anatomy.prefix :].unflatten(1, record.grid)


def _step(row: Tensor, matrix: Tensor, slots: Tensor) -> Tensor:
    """Brings a row to the windows, through their matrices and back; what falls on padding is lost."""
    padded = F.pad(row, (1, 0))  # token 0 is the padding
    windows = padded[:, slots]
    passed = windows.unsqueeze(-2) @ matrix.unflatten(0, windows.shape[:2])
    return torch.zeros_like(padded).index_add(1, slots.flatten(), passed.flatten(1))[:, 1:]


def _unmerge(row: Tensor, grid: tuple[int, int], finer: tuple[int, int]) -> Tensor:
    quarters = row.unflatten(1, grid).repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
    return quarters[:, : finer[0], : finer[1]].flatten(1)
