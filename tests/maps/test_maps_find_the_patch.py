"""On models that can only know the class from one bright patch, every method must point there, dense and pruned."""

from functools import cache

import pytest
import torch
from planted import PATCH, SIDE, planted, taught, teach
from torch import Tensor, nn

from xpruner.maps import list_maps, saliency
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units
from xpruner.units.modules.branch import ConstantBranch

KEPT = {
    "vit": {"blocks.0.attn:head": [0, 3], "blocks.1.attn:head": [0, 1, 2], "blocks.0.mlp:hidden": list(range(40))},
    "swin": {
        "layers.0.blocks.0.attn:head": [1],
        "layers.0.blocks.1.attn:head": [],
        "layers.1.blocks.0.attn:head": [0, 1, 3],
    },
}
CHANCE = (PATCH / SIDE) ** 2


@cache
def dense(name: str) -> nn.Module:
    return taught(name)


@cache
def pruned(name: str) -> nn.Module:
    model = dense(name)
    return teach(apply(model, Plan.of(find_units(model), KEPT[name])), steps=20)


def found(maps: Tensor, masks: Tensor) -> Tensor:
    """Returns for each image whether the patch has the maximum, or three times more of the mass than by chance."""
    flat, masks = maps.flatten(1), masks.flatten(1)
    highest = masks.gather(1, flat.argmax(1, keepdim=True))[:, 0]
    positive = flat.relu()
    return highest | ((positive * masks).sum(1) > 3 * CHANCE * positive.sum(1))


@pytest.mark.parametrize("make", [dense, pruned])
@pytest.mark.parametrize("name", ["vit", "swin"])
@pytest.mark.parametrize("method", list_maps())
def test_maps_point_at_the_patch(method, name, make):
    model = make(name)
    images, labels, masks = planted(32, seed=10**6)
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).float().mean() > 0.95
    maps = saliency(model, images, method)
    assert found(maps, masks).float().mean() > 0.7
    assert found(maps, masks.roll(SIDE // 2, 1)).float().mean() < 0.3  # nothing is found where the patch is not


def test_pruned_models_have_what_they_should():
    assert [block.attn.num_heads for block in pruned("vit").blocks] == [2, 3]
    swin = pruned("swin")
    assert isinstance(swin.layers[0].blocks[1].attn, ConstantBranch)
    assert (swin.layers[0].blocks[0].attn.num_heads, swin.layers[1].blocks[0].attn.num_heads) == (1, 3)


@pytest.mark.parametrize("method", sorted(set(list_maps()) - {"rollout"}))
def test_the_class_that_is_asked_for_is_explained(method):
    """Two patches of two colours in one image: each class's map has more on its own than on the other's."""
    model = dense("vit")
    images = torch.randn(16, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.5
    images[:, 0, :PATCH, :PATCH] += 2
    images[:, 1, -PATCH:, -PATCH:] += 2
    red, green = (saliency(model, images, method, targets=torch.full((16,), colour)) for colour in (0, 1))
    difference = red - green
    assert difference[:, :PATCH, :PATCH].mean() > difference[:, -PATCH:, -PATCH:].mean()
