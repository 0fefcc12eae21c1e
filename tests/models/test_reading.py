"""The arguments of ``timm.create_model``, read off the modules alone."""

import pytest
import timm
from tiny_models import SWIN, VIT, build

from xpruner.models.reading import outside, read_off

BASE = {"img_size": 32, "num_classes": 5}


def read(name: str, **arguments) -> dict:
    return next(read_off(build(name, **arguments), timm.create_model(name)))


@pytest.mark.parametrize("arguments", [
    {"global_pool": "avg"},
    {"global_pool": "avg", "fc_norm": False},
    {"class_token": False, "global_pool": "max"},
    {"reg_tokens": 4, "no_embed_class": True},
    {"pos_embed": "none"},
    {"pre_norm": True, "final_norm": False},
    {"qkv_bias": False, "proj_bias": False},
    {"qk_norm": True},
    {"act_layer": "quick_gelu"},
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"pool_include_prefix": True, "global_pool": "avg"},
    {"num_heads": 6, "mlp_ratio": 5, "in_chans": 1},
])  # fmt: skip
def test_what_shows_of_a_vision_transformer_is_read(arguments):
    told = {name: value for name, value in (VIT | arguments).items() if (name, value) != ("num_heads", 3)}
    assert read("vit_tiny_patch16_224", **VIT | arguments) == BASE | told


def test_what_shows_of_a_swin_is_read():
    wanted = BASE | SWIN | dict(depths=[2, 2], num_heads=[2, 4], in_chans=1)
    assert read("swin_tiny_patch4_window7_224", **SWIN, in_chans=1) == wanted


def test_what_shows_of_any_family_is_its_classes_images_channels_and_pooling():
    name, arguments = "beit_base_patch16_224", dict(embed_dim=24, depth=1, num_heads=3)
    model, plain = build(name, **arguments, in_chans=1, global_pool="token"), timm.create_model(name)
    assert outside(model, plain) == BASE | {"in_chans": 1, "global_pool": "token"}
    assert outside(build(name, **arguments), plain) == BASE
    assert outside(build(name, **arguments), plain, ["global_pool"]) == BASE | {"global_pool": "avg"}
