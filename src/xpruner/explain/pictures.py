"""Images and explanation maps as pictures: inside a page, or as a file."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from xpruner.data import InputSpec
from xpruner.files import write_whole

SIDE = 160
"""Largest side of a picture, in pixels."""
SMALL = 64
"""Up to this side a picture is PNG; JPEG would blur it and gain nothing."""
HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]) / 255
"""Colours from cold to hot, at equal distances; they grow lighter steadily."""
STRONGEST = 0.8
"""Share of the heat's colour where a map is at its maximum."""
VISIBLE = 224
"""Pictures that stand side by side are enlarged as often as they fit into this side, in pixels."""
GAP = 8
"""White between pictures side by side, in pixels."""


def pixels_of(image: Tensor, spec: InputSpec) -> np.ndarray:
    """Returns a model's input (3, height, width) as the image that it shows: (height, width, 3), 0 to 1."""
    shown = image.permute(1, 2, 0).double().numpy() * np.array(spec.std) + np.array(spec.mean)
    return shown.clip(0, 1)


def heated(pixels: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Returns an image in grey with a map's positive part laid over it in colour, scaled to its own maximum.

    Args:
        pixels: (height, width, 3), 0 to 1.
        strength: (height, width), of any scale.
    """
    positive = strength.clip(0)
    positive = (positive / max(positive.max(), 1e-30))[..., None]
    places = np.linspace(0, 1, len(HEAT))
    colour = np.concatenate([np.interp(positive, places, channel) for channel in HEAT.T], axis=-1)
    grey = pixels.mean(-1, keepdims=True)
    return grey + STRONGEST * positive * (colour - grey)


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Returns pictures (height, width, 3) of one size in one row, small ones enlarged by a whole factor."""
    factor = max(1, VISIBLE // max(pictures[0].shape[:2]))
    row = [np.kron(picture, np.ones((factor, factor, 1))) for picture in pictures]
    gap = np.ones((len(row[0]), GAP, 3))
    return np.concatenate([part for picture in row for part in (gap, picture)][1:], axis=1)


def data_uri(pixels: np.ndarray, side: int = SIDE) -> str:
    """Returns an image (height, width, 3), 0 to 1, as a ``data:`` address of at most ``side`` pixels a side."""
    image = _image(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "png" if max(image.size) <= SMALL else "jpeg"
    options = {} if kind == "png" else {"quality": 88, "subsampling": 0}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Writes an image (height, width, 3), 0 to 1, whole or not at all.

    Raises:
        XPrunerError: If the disk is full or the folder cannot be written.
    """
    write_whole(path, lambda temporary: _image(pixels).save(temporary, "png"))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((255 * pixels).round().astype(np.uint8))
