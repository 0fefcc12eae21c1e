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
    assert all(torch.isfinite(transform(image, (0, 0, number))).all() for number in range(2000))
