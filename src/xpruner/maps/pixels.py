"""From a map of patches to one of pixels."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def to_pixels(maps: Tensor, cell: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Enlarges maps of patches bilinearly.

    Args:
        maps: (batch, rows, columns).
        cell: (height, width) in pixels of one patch.
        size: (height, width) of the image. Patches that reach beyond it, into padding, are cut off; pixels that no
            patch covers get 0.

    Returns:
        (batch, height, width).
    """
    height, width = maps.shape[1] * cell[0], maps.shape[2] * cell[1]
    large = F.interpolate(maps[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    return F.pad(large, (0, size[1] - width, 0, size[0] - height))
