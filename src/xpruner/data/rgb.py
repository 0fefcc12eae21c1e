"""Reads an image file of any supported format and mode as RGB, 8 bits a channel; all images are read this way."""

from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats that are decoded. Pillow supports more, but runs other programs for some of them, such as EPS."""

DEEP = ("I", "F")
"""Prefixes of Pillow's modes with more than 8 bits; its own conversion to RGB clips them at 255."""
WHITES = {"I;16": (65535,), "I": (65535, 2**31 - 1), "F": (1, 255, 65535, 2**32 - 1)}
"""Candidates for white in each of them: the least that no pixel exceeds is taken. Mode I holds 16 bits in PNG and PGM
files and 32 in TIFF files; for mode F there is only convention."""
ORIENTATION = 0x0112
"""EXIF tag in which cameras note which side is up."""


@cache
def image_extensions() -> frozenset[str]:
    """Returns the extensions of files in one of the :data:`FORMATS`, such as ``.png``."""
    return frozenset(name for name, kind in Image.registered_extensions().items() if kind in FORMATS)


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """Returns an image in its own mode, before its pixels are decoded; the format is detected by content, not by name.

    Raises:
        Exception: ``PIL.UnidentifiedImageError`` for any other format, or whatever the decoder raises.
    """
    return Image.open(file, formats=FORMATS)


def as_rgb(image: Image.Image) -> Image.Image:
    """Returns an image upright and in RGB, as viewers show it except for transparency.

    Grey with more than 8 bits is scaled to 8 bits. Transparency is dropped, as in timm and torchvision: each pixel
    keeps its own colour.

    Args:
        image: In any mode, loaded or not.

    Raises:
        Exception: Whatever its decoder raises if it is damaged.
    """
    image = _upright(image)
    if image.mode.startswith(DEEP):
        image = _shallow(image)
    if image.mode == "P":
        image = image.convert("RGBA")  # to RGB directly, Pillow warns where colours are transparent
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Rotates an image as its EXIF data state; damaged EXIF data are ignored."""
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # damaged bytes make it raise nearly anything
        return image


def _shallow(image: Image.Image) -> Image.Image:
    """Returns a grey of more than 8 bits in mode L."""
    pixels = np.nan_to_num(np.asarray(image, np.float64))
    whites = WHITES.get(image.mode[:4], WHITES["F"])
    white = next((white for white in whites if pixels.max(initial=0) <= white), whites[-1])
    return Image.fromarray((255 * pixels / white).clip(0, 255).round().astype(np.uint8))
