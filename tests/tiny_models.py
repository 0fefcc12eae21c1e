"""Every kind of model that can be pruned, small enough to run in milliseconds, and plans for them."""

import copy
from functools import cache

import timm
import torch
from torch import nn

from xpruner.plan.plan import Plan
from xpruner.testing import Noise as Noise
from xpruner.testing import footprint as footprint
from xpruner.testing import random_plan, set_fused, stir
from xpruner.units import DEFAULT_KINDS, Gate, UnitGroup, Units, find_units

VIT = dict(patch_size=8, embed_dim=24, depth=2, num_heads=3)
SWIN = dict(patch_size=2, window_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 4))
MODELS = {
    "vit": ("vit_tiny_patch16_224", VIT),
    "vit_without_biases": ("vit_tiny_patch16_224", VIT | dict(qkv_bias=False, proj_bias=False, qk_norm=True)),
    "vit_post_norm": ("vit_base_patch16_rpn_224", VIT),
    "deit": ("deit_tiny_patch16_224", VIT | dict(embed_dim=20, num_heads=5)),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", VIT),
    "deit3_layer_scale": ("deit3_small_patch16_224", VIT),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "swin_padded_windows": ("swin_tiny_patch4_window7_224", SWIN | dict(img_size=(24, 36), window_size=5)),
    "swin_small_maps": ("swin_tiny_patch4_window7_224", SWIN | dict(patch_size=4, window_size=7)),
    "swin_odd_heads": ("swin_tiny_patch4_window7_224", SWIN | dict(num_heads=(3, 3), head_dim=5)),
}


def build(name: str, **kwargs) -> nn.Module:
    """Returns a timm model for five classes of 32-pixel images, in eval mode, with all its parameters stirred."""
    return stir(timm.create_model(name, **{"img_size": 32, "num_classes": 5} | kwargs).eval())


@cache
def _built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        timm_name, kwargs = MODELS[name]
        return build(timm_name, **kwargs)


def tiny(name: str, *, fused: bool = True) -> nn.Module:
    """Returns a copy of one of ``MODELS``, with fused or unfused attention."""
    model = copy.deepcopy(_built(name))
    set_fused(model, fused)
    return model


@cache
def units_of(name: str, kinds: tuple[str, ...] = DEFAULT_KINDS) -> Units:
    """Returns the units of one of ``MODELS``."""
    return find_units(_built(name), kinds)


def some_plan(units: Units) -> Plan:
    """Returns a random plan, another one every time."""
    return random_plan(units, int(torch.randint(2**31, ())))


def group(key: str, size: int, *, macs: float = 1, params: float = 1, width: int = 1) -> UnitGroup:
    """Returns a group that belongs to no model."""
    module, kind = key.split(":")
    return UnitGroup(key, kind, module, size, (Gate(f"{module}.consumer", inner=width),), macs, params)
