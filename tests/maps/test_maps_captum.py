"""The maps that captum makes, on models whose answer can be written down."""

import sys

import pytest
import torch
from tiny_models import tiny
from torch import nn
from torch.testing import assert_close

from xpruner.errors import UsageError
from xpruner.maps import saliency

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([1, 0, 1])


@pytest.fixture
def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))


@pytest.fixture
def products(linear: nn.Module):
    """(3, 3, 8, 8) weight times pixel, for each image's target."""
    return IMAGES * linear[1].weight.detach()[TARGETS].view(3, 3, 8, 8)


def test_integrated_gradients_of_a_linear_model_are_weight_times_pixel(linear, products):
    assert_close(saliency(linear, IMAGES, "integrated_gradients", TARGETS), products.sum(1), rtol=1e-4, atol=1e-6)


def test_integrated_gradients_start_at_the_baseline(linear, products):
    maps = saliency(linear, IMAGES, "integrated_gradients", TARGETS, baseline=IMAGES / 2)
    assert_close(maps, products.sum(1) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_integrated_gradients_are_complete(name):
    """Their sum is the change of the logit, here to 0.1 % with 64 points on a smooth path."""
    model, images, targets = tiny(name), torch.randn(2, 3, 32, 32), torch.tensor([4, 2])
    maps = saliency(model, images, "integrated_gradients", targets, steps=64, batch_size=16)
    with torch.no_grad():
        change = (model(images) - model(torch.zeros_like(images)))[[0, 1], targets]
    assert change.abs().min() > 0.01
    assert_close(maps.sum((1, 2)), change, rtol=1e-3, atol=1e-5)


def test_occlusion_of_a_linear_model_is_the_sum_that_goes(linear, products):
    maps = saliency(linear, IMAGES, "occlusion", TARGETS, window=4, batch_size=2)
    blocks = products.view(3, 3, 2, 4, 2, 4).sum((1, 3, 5))
    assert_close(maps, blocks.repeat_interleave(4, 1).repeat_interleave(4, 2), rtol=1e-4, atol=1e-5)


def test_windows_that_overlap_are_averaged(linear, products):
    maps = saliency(linear, IMAGES, "occlusion", TARGETS, window=6, stride=2)
    corner = products.sum(1)[:, :6, :6].sum((1, 2))
    right = products.sum(1)[:, :6, 2:].sum((1, 2))
    assert_close(maps[:, 0, 0], corner, rtol=1e-4, atol=1e-5)
    assert_close(maps[:, 0, 3], (corner + right) / 2, rtol=1e-4, atol=1e-5)


def test_windows_are_patches(linear):
    for name, side in (("vit", 8), ("swin", 4)):  # swin's patches of 2 are smaller than a 14th of 32
        model, images = tiny(name), torch.randn(1, 3, 32, 32)
        maps = saliency(model, images, "occlusion")
        assert_close(maps, maps[:, ::side, ::side].repeat_interleave(side, 1).repeat_interleave(side, 2))
        assert maps[0, 0, 0] != maps[0, 0, side]
    maps = saliency(linear, IMAGES, "occlusion")  # without patches and 8 pixels wide: windows of one pixel
    assert len(maps[0].unique()) == 64


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_captum_is_asked_for_when_it_is_missing(linear, method, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(
        UsageError, match=rf"captum is needed to explain by '{method}'; pip install 'xpruner\[explain\]'"
    ):
        saliency(linear, IMAGES, method)
    assert saliency(tiny("vit"), torch.randn(1, 3, 32, 32), "rollout").shape == (1, 32, 32)
