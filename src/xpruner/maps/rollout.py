"""Attention rollout: attention of all blocks multiplied up, whatever the class."""

from typing import Any

import torch
from torch import Tensor, nn

from xpruner.maps.anatomy import anatomy_of
from xpruner.maps.attention import record_attention
from xpruner.maps.flow import first_row, follow, patch_map, with_identity
from xpruner.maps.pixels import to_pixels
from xpruner.maps.registry import register_map


@register_map("rollout", of_class=False)
def rollout(model: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """Returns attention rollout (Abnar and Zuidema 2020, section 3), at least 0; class-agnostic.

    Per block the mean over heads plus the identity, rows normalised to 1; of their product, the row that the
    classifier reads.

    Raises:
        UsageError: If the model cannot be read.
    """
    anatomy = anatomy_of(model)
    with torch.no_grad():
        _, records = record_attention(model, anatomy, images)
        row = follow(first_row(anatomy, records[-1], images), records, _normalised)
    return to_pixels(patch_map(row, anatomy, records[0]), records[0].cell, images.shape[-2:])


def _normalised(record: Any) -> Tensor:
    matrix = with_identity(record.probabilities.mean(1))
    return matrix / matrix.sum(-1, keepdim=True)
