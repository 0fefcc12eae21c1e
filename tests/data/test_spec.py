import json
import math
import re

import pytest
import timm
from torch import nn

from xpruner.data import InputSpec
from xpruner.errors import UsageError

IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TINY = dict(depth=1, embed_dim=16, num_heads=2)


def test_of_a_model_at_its_published_size_crops_as_published():
    model = timm.create_model("deit_tiny_patch16_224", **TINY)
    assert InputSpec.of(model) == InputSpec((224, 224), **IMAGENET, interpolation="bicubic", crop_pct=0.9)


def test_of_a_model_built_for_another_size_takes_images_whole():
    model = timm.create_model("deit_tiny_patch16_224", img_size=(32, 64), **TINY)
    assert InputSpec.of(model) == InputSpec((32, 64), **IMAGENET, crop_pct=1.0)


def test_of_a_model_without_published_weights_takes_images_whole():
    model = timm.create_model("vit_small_patch16_18x2_224", **TINY)
    assert model.pretrained_cfg["crop_pct"] == 0.9
    assert InputSpec.of(model).crop_pct == 1.0


def test_of_a_model_that_describes_nothing_is_imagenets():
    assert InputSpec.of(nn.Identity()) == InputSpec((224, 224), **IMAGENET)


def test_of_counts_the_channels_of_the_first_layer():
    model = timm.create_model("deit_tiny_patch16_224", in_chans=1, **TINY)
    assert InputSpec.of(model).channels == 1


def test_dict_is_json_and_comes_back():
    spec = InputSpec((32, 48), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.8, "squash", 3)
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("img_size", [32, 224])
def test_a_model_updated_with_a_spec_has_that_spec(img_size):
    model = timm.create_model("deit_tiny_patch16_224", img_size=img_size, **TINY)
    spec = InputSpec((img_size, img_size), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.8)
    model.pretrained_cfg.update(spec.to_dict())
    assert InputSpec.of(model) == spec


@pytest.mark.parametrize("field, value", [
    ("std", (0.5, 0.0, 0.5)), ("std", (math.nan,) * 3), ("std", (-1.0,) * 3), ("std", (math.inf,) * 3),
    ("mean", (math.nan, 0.5, 0.5)), ("mean", (math.inf,) * 3), ("size", (0, 32)), ("size", (32, -1)),
    ("crop_pct", 0.0), ("crop_pct", math.nan),
])  # fmt: skip
def test_preprocessing_that_makes_no_image_is_refused_by_its_value(field, value):
    good = {"size": (32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(UsageError, match=re.escape(f"The preprocessing has {field} {value}; it must be finite")):
        InputSpec(**good | {field: value})
    InputSpec(**good, crop_pct=1.15)  # as timm publishes of VOLO
