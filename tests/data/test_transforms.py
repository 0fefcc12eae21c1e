"""The augmentations, image by image."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from xpruner.data import InputSpec
from xpruner.data.transforms import make_transform


def test_timms_augmentation_never_asks_for_what_pillow_refuses():
    """RandAugment draws its strength for every image; the strongest one in a thousand must be drawn too."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    transform = make_transform("timm", InputSpec((16, 16), (0.5,) * 3, (0.5,) * 3, "bilinear"), True)
    assert all(torch.isfinite(transform.vary(transform.settle(image), (0, 0, number))).all() for number in range(2000))


def test_light_moves_pixels_before_they_are_normalised():
    """The key alone decides by how far; the edge is repeated where the image ends."""
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


ARCHITECTURES = [
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "beit_base_patch16_224", "cait_xxs24_224", "volo_d1_224", "pit_ti_224", "levit_128",
    "xcit_nano_12_p8_224", "twins_pcpvt_small", "tiny_vit_5m_224", "mvitv2_tiny", "maxvit_nano_rw_256",
    "crossvit_9_240", "convit_tiny", "vit_base_patch16_siglip_224", "vit_small_patch14_dinov2",
    "eva02_tiny_patch14_224", "pvt_v2_b0", "vit_base_patch16_clip_224",
]  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_input_tensors_are_those_of_timm(name):
    """At the size of the published weights, on noise, which shows every shift and every other kernel."""
    with torch.device("meta"):
        model = timm.create_model(name)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8))
    wanted = create_transform(**resolve_model_data_config(model))(image)
    torch.testing.assert_close(make_transform("none", InputSpec.of(model), True)(image), wanted, rtol=0, atol=1e-5)
