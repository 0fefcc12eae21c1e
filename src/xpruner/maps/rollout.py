"""Attention rollout: attention of all blocks multiplied up, whatever the class."""

from typing import Any

import torch
from torch import Tensor, nn

from xpruner.maps.anatomy import anatomy_of
from xpruner.maps.attention import look
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
        _, looks = look(model, anatomy, images)
        row = follow(first_row(anatomy, looks[-1], images), looks, _normalised)
    return to_pixels(patch_map(row, anatomy, looks[0]), looks[0].cell, images.shape[-2:])


def _normalised(seen: Any) -> Tensor:
    matrix = with_identity(seen.probabilities.mean(1))
    return matrix / matrix.sum(-1, keepdim=True)
