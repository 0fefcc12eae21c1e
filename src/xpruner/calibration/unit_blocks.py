"""The diagonal blocks of a matrix over channels that belong to units."""

from torch import Tensor


def unit_blocks(matrix: Tensor, channels: Tensor) -> Tensor:
    """Returns the (units, width, width) blocks of a (channels, channels) matrix that belong to the units."""
    return matrix[channels[:, :, None], channels[:, None, :]]
