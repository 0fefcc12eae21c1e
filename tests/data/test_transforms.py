"""The augmentations, image by image."""

import numpy as np
import torch
from PIL import Image

from xpruner.data import InputSpec
from xpruner.data.transforms import make_transform


def test_timms_augmentation_never_asks_for_what_pillow_refuses():
    """RandAugment draws its strength anew for every image; the strongest one in a thousand must be drawn too."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    transform = make_transform("timm", InputSpec((16, 16), (0.5,) * 3, (0.5,) * 3, "bilinear"), True)
    assert all(torch.isfinite(transform.vary(transform.settle(image), (0, 0, number))).all() for number in range(2000))


def test_light_moves_pixels_before_they_are_normalised():
    """By how far, the key alone says; the edge is repeated where the image ends."""
    image = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.int64).reshape(64, 64, 3).astype(np.uint8))
    spec = InputSpec((64, 64), (0.5, 0.4, 0.3), (0.5, 0.25, 0.2), "bicubic")
    light, plain = make_transform("light", spec, True), make_transform("none", spec, True)
    pixels = plain.vary(plain.settle(image), ())
    for number in range(20):
        rng = np.random.default_rng((3, number))
        wanted = pixels.flip(-1) if rng.random() < 0.5 else pixels
        top, left = rng.integers(5), rng.integers(5)
        wanted = torch.nn.functional.pad(wanted, (2, 2, 2, 2), mode="replicate")[:, top : top + 64, left : left + 64]
        torch.testing.assert_close(light.vary(light.settle(image), (3, number)), wanted, rtol=0, atol=0)
