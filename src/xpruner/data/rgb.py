"""From an image file in whatever format and mode to RGB, 8 bits a channel: the one way in which all images are read."""

from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What is decoded. Pillow knows more, and runs other programs for some of them, such as EPS."""

DEEP = ("I", "F")
"""Beginnings of the modes in Pillow with more than 8 bits; its own conversion to RGB cuts them off at 255."""
WHITES = {"I;16": (65535,), "I": (65535, 2**31 - 1), "F": (1, 255, 65535, 2**32 - 1)}
"""What white may be in each of them: the least that no pixel exceeds. Mode I holds 16 bits in PNG and PGM files and 32
in TIFF files; for mode F there is no rule but custom."""
ORIENTATION = 0x0112
"""Where cameras note which side is up."""


@cache
def image_extensions() -> frozenset[str]:
    """Returns the extensions of files in one of the :data:`FORMATS`, such as ``.png``."""
    return frozenset(name for name, kind in Image.registered_extensions().items() if kind in FORMATS)


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """Returns an image in whatever mode it has, before its pixels are decoded; whatever its name says.

    Raises:
        Exception: ``PIL.UnidentifiedImageError`` for any other format, or whatever the decoder does.
    """
    return Image.open(file, formats=FORMATS)


def as_rgb(image: Image.Image) -> Image.Image:
    """Returns an image upright and in RGB, as viewers show it but for transparency.

    Deep greys are scaled to 8 bits. Transparency is left out, as timm and torchvision do: each pixel has the colour
    that lies below it.

    Args:
        image: In any mode, loaded or not.

    Raises:
        Exception: Whatever its decoder does if it is damaged.
    """
    image = _upright(image)
    if image.mode.startswith(DEEP):
        image = _shallow(image)
    if image.mode == "P":
        image = image.convert("RGBA")  # to RGB directly, Pillow warns where colours are transparent
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Turns an image as the camera noted; damaged notes are no reason to refuse it."""
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # as from the decoders of pixels, nearly anything
        return image


def _shallow(image: Image.Image) -> Image.Image:
    """Returns a deep grey in mode L."""
    pixels = np.nan_to_num(np.asarray(image, np.float64))
    whites = WHITES.get(image.mode[:4], WHITES["F"])
    white = next((white for white in whites if pixels.max(initial=0) <= white), whites[-1])
    return Image.fromarray((255 * pixels / white).clip(0, 255).round().astype(np.uint8))
