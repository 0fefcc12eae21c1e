"""Grad-CAM: the channels' mean gradient over the patches, times the channels."""

import pytest
import torch
from tiny_models import tiny, units_of
from torch import Tensor, nn
from torch.testing import assert_close

from xpruner.errors import UsageError
from xpruner.maps import saliency
from xpruner.maps.pixels import to_pixels
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([3, 1])


def tokens_and_gradient(model: nn.Module, layer: str) -> tuple[Tensor, Tensor]:
    caught = []
    model.get_submodule(layer).register_forward_hook(lambda _m, _a, output: caught.append(output))
    score = model(IMAGES).gather(1, TARGETS[:, None]).sum()
    return caught[0].detach(), torch.autograd.grad(score, caught)[0]


@pytest.mark.parametrize(("name", "prefix"), [("vit", 1), ("deit_distilled", 2)])
def test_a_vit_by_hand(name, prefix):
    maps = saliency(tiny(name), IMAGES, "gradcam", TARGETS)
    tokens, gradient = tokens_and_gradient(tiny(name), "blocks.1.norm1")
    wanted = torch.zeros(2, 4, 4)
    for image in range(2):
        for patch in range(16):
            for channel in range(24):
                weight = gradient[image, prefix:, channel].sum() / 16
                wanted[image, patch // 4, patch % 4] += weight * tokens[image, prefix + patch, channel]
    assert (wanted > 0).any()
    assert_close(maps, to_pixels(wanted.clamp(min=0), (8, 8), (32, 32)), rtol=1e-4, atol=1e-7)


def test_a_swin_by_hand():
    maps = saliency(tiny("swin"), IMAGES, "gradcam", TARGETS)
    tokens, gradient = tokens_and_gradient(tiny("swin"), "layers.1.blocks.1.norm1")
    assert tokens.shape == (2, 8, 8, 24)
    wanted = torch.einsum("bhwc,bc->bhw", tokens, gradient.mean((1, 2))).clamp(min=0)
    assert_close(maps, to_pixels(wanted, (4, 4), (32, 32)), rtol=1e-4, atol=1e-7)


def test_behind_the_last_attention_a_class_token_has_taken_all_it_takes():
    assert saliency(tiny("vit"), IMAGES, "gradcam", layer="blocks.1.norm1").max() > 0
    assert not saliency(tiny("vit"), IMAGES, "gradcam", layer="blocks.1.norm2").any()


@pytest.mark.parametrize(("key", "kinds"), [("blocks.1.attn:head", ("head",)), ("blocks.1:block", ("block",))])
def test_a_block_without_attention_is_passed_over(key, kinds):
    pruned = apply(tiny("vit"), Plan.of(find_units(tiny("vit"), kinds), {key: []}))
    maps = saliency(pruned, IMAGES, "gradcam")
    assert maps.max() > 0
    assert torch.equal(maps, saliency(pruned, IMAGES, "gradcam", layer="blocks.0.norm1"))


def test_a_stage_without_attention_is_passed_over():
    plan = Plan.of(units_of("swin"), {f"layers.1.blocks.{block}.attn:head": [] for block in (0, 1)})
    pruned = apply(tiny("swin"), plan)
    maps = saliency(pruned, IMAGES, "gradcam")
    assert maps.max() > 0
    assert torch.equal(maps, saliency(pruned, IMAGES, "gradcam", layer="layers.0.blocks.1.norm1"))


@pytest.mark.parametrize(("layer", "message"), [
    ("blocks.7.norm1", "has no layer 'blocks.7.norm1'"),
    ("norm", "The layer 'norm' lies in no block; name a module within one, such as 'blocks.1'."),
    ("blocks.0.attn.attn_drop", "The layer 'blocks.0.attn.attn_drop' puts out"),
])  # fmt: skip
def test_other_layers_are_refused(layer, message):
    with pytest.raises(UsageError, match=message):
        saliency(tiny("vit"), IMAGES, "gradcam", layer=layer)
