"""Images are prepared as a model's own processor prepares them, or the model is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BeitImageProcessorPil,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    LevitImageProcessorPil,
    MobileViTImageProcessor,
    PvtImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from xpruner.data.spec import InputSpec
from xpruner.data.transforms import Plain
from xpruner.errors import UsageError
from xpruner.models.preprocessing import crop_share, of_processor, read_preprocessing, to_processor

SWIN = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], resample=3)
PROCESSORS = {
    "vit": ViTImageProcessorPil(),
    "vit at 96": ViTImageProcessorPil(size={"height": 96, "width": 64}),
    "deit": DeiTImageProcessorPil(),
    "swin": ViTImageProcessorPil(**SWIN),
    "beit": BeitImageProcessorPil(size={"height": 256, "width": 256}, do_center_crop=True),
    "dinov2": BitImageProcessorPil(size={"shortest_edge": 256}, **SWIN),
    "odd resize": BitImageProcessorPil(size={"shortest_edge": 232}),
    "siglip": SiglipImageProcessorPil(),
    "clip": CLIPImageProcessorPil(),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875),
    "convnext whole": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "levit": LevitImageProcessorPil(),
    "pvt": PvtImageProcessorPil(),
    "levels": ViTImageProcessorPil(do_rescale=False, image_mean=[127.5] * 3, image_std=[127.5] * 3),
    "not normalised": ViTImageProcessorPil(do_normalize=False),
}


def photograph(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(250, 190), (190, 250), (300, 300)])
def test_input_tensors_are_those_of_the_processor(name, size):
    """Pixel by pixel, on noise, which shows every shift and every other kernel."""
    processor, image = PROCESSORS[name], photograph(*size)
    wanted = torch.as_tensor(np.asarray(processor(image, return_tensors="pt")["pixel_values"][0]))
    ours = Plain(of_processor(processor.to_dict(), type(processor).__name__))(image)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_folder_says_how_its_images_are_prepared(name, tmp_path):
    PROCESSORS[name].save_pretrained(tmp_path)
    processor = PROCESSORS[name]
    assert read_preprocessing(str(tmp_path), True) == of_processor(processor.to_dict(), type(processor).__name__)


def test_a_processor_among_others_is_read_too(tmp_path):
    """A processor_config.json nests that of images."""
    config = {"image_processor": ViTImageProcessor(image_mean=[0.1, 0.2, 0.3]).to_dict(), "processor_class": "X"}
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    found = read_preprocessing(str(tmp_path), True)
    assert found is not None and found.mean == (0.1, 0.2, 0.3)


def test_an_old_file_without_a_type_is_read_by_the_model_beside_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    old = {"do_normalize": True, "do_resize": True, "size": 96, "resample": 2, "image_mean": [0.5] * 3,
           "image_std": [0.5] * 3, "feature_extractor_type": "ViTFeatureExtractor"}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert read_preprocessing(str(tmp_path), True) == InputSpec(
        (96, 96), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "squash"
    )


def test_without_a_file_there_is_a_warning(tmp_path, caplog):
    assert read_preprocessing(str(tmp_path), True) is None
    assert "has no preprocessor_config.json; mean, std and crop of ImageNet are used" in caplog.text


def test_what_cannot_be_done_is_refused(tmp_path):
    MobileViTImageProcessor().save_pretrained(tmp_path)  # swaps red and blue
    with pytest.raises(UsageError, match=r"prepares images in a way that cannot be reproduced .*; give model\.mean"):
        read_preprocessing(str(tmp_path), True)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"image_processor_type": "Nothing"}', '{"image_processor_type": "ViTImageProcessor", "size": {}}'],
)
def test_a_damaged_file_is_told(text, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(UsageError, match=r"cannot be (read|followed) .*give model\.mean"):
        read_preprocessing(str(tmp_path), True)


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec((64, 64), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.875, "center"),
        InputSpec((64, 96), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 1.0, "squash"),
        InputSpec((64, 64), (0.5,) * 3, (0.5,) * 3, "nearest", 1.0, "squash"),
    ],
)
def test_transformers_prepares_images_alike(spec, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(to_processor(spec)))
    found = read_preprocessing(str(tmp_path), True)
    assert found is not None
    torch.testing.assert_close(Plain(found)(photograph(80, 100)), Plain(spec)(photograph(80, 100)))


@pytest.mark.parametrize(
    "spec",
    [InputSpec((64, 96), (0.5,) * 3, (0.5,) * 3), InputSpec((8, 8), (0.5,) * 3, (0.5,) * 3, crop_mode="border")],
)
def test_what_no_processor_does_is_not_written(spec):
    assert to_processor(spec) is None


@pytest.mark.parametrize(("wanted", "resized"), [(224, 232), (224, 256), (96, 96), (384, 439), (7, 9)])
def test_timm_resizes_to_what_the_share_says(wanted, resized):
    assert int(wanted / crop_share(wanted, resized)) == resized


@pytest.mark.parametrize("kind", ["Stranger", "ViTImageProcessor"])
def test_no_code_beside_a_processor_runs(kind, tmp_path):
    """A class of one's own is refused, and one of the library is taken in its place."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Stranger: pass\n")
    config = {"image_processor_type": kind, "auto_map": {"AutoImageProcessor": "evil.Stranger"}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    if kind == "Stranger":
        with pytest.raises(UsageError, match="custom code"):
            read_preprocessing(str(tmp_path), True)
    else:
        assert read_preprocessing(str(tmp_path), True) == of_processor(ViTImageProcessor().to_dict(), kind)
    assert not (tmp_path / "ran").exists()
