"""From whatever mode an image file has to RGB, 8 bits a channel: the one way in which all images are read."""

import numpy as np
from PIL import Image, ImageOps

DEEP = ("I", "F")
"""Beginnings of the modes in Pillow with more than 8 bits; its own conversion to RGB cuts them off at 255."""
WHITES = {"I;16": (65535,), "I": (65535, 2**31 - 1), "F": (1, 255, 65535, 2**32 - 1)}
"""What white may be in each of them: the least that no pixel exceeds. Mode I holds 16 bits in PNG and PGM files and 32
in TIFF files; for mode F there is no rule but custom."""
ORIENTATION = 0x0112
"""Where cameras note which side is up."""


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
