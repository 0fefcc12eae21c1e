import math

import pytest
import torch
from torch.nn import functional as F

from xpruner.data.by_class import class_means
from xpruner.explain.ablation import ablation_effects, activation_strength, redundant_units
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units

HIDDEN = "blocks.1.mlp:hidden"


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 0])) for _ in range(2)]


@pytest.mark.parametrize(("key", "gone"), [("blocks.0.attn:head", [1]), (HIDDEN, [0, 5, 7])])
def test_an_ablated_unit_costs_what_a_pruned_one_does(tiny_vit, images, key, gone):
    units = find_units(tiny_vit)
    effect = ablation_effects(tiny_vit, units, [{}, {key: gone}], images, 5)[1]
    keep = [i for i in range(units[key].size) if i not in gone]
    cut = apply(tiny_vit, Plan.of(units, {key: keep}))
    x, labels = (torch.cat(parts) for parts in zip(*images, strict=True))
    with torch.no_grad():
        whole, part = tiny_vit(x), cut(x)
    rise = F.cross_entropy(part, labels, reduction="none") - F.cross_entropy(whole, labels, reduction="none")
    torch.testing.assert_close(
        effect.loss[:3], torch.stack([rise[labels == c].mean() for c in range(3)]), atol=1e-5, rtol=0
    )
    assert effect.loss[3:].isnan().all() and effect.top1[3:].isnan().all()
    wrong = (whole.argmax(1) == labels).double() - (part.argmax(1) == labels).double()
    torch.testing.assert_close(effect.top1[0], 100 * wrong[labels == 0].mean())
    p, q = whole.softmax(1), part.softmax(1)
    torch.testing.assert_close(effect.change, (p * (p.log() - q.log())).sum(1), atol=1e-5, rtol=0)


def test_ablating_nothing_costs_nothing(tiny_vit, images):
    (effect,) = ablation_effects(tiny_vit, find_units(tiny_vit), [{}], images, 5)
    assert effect.change.abs().max() < 1e-6 and effect.top1[:3].tolist() == [0, 0, 0]


def test_no_hook_is_left_on_the_model(tiny_vit, images):
    ablation_effects(tiny_vit, find_units(tiny_vit), [{HIDDEN: [0]}], images, 5)
    activation_strength(tiny_vit, find_units(tiny_vit)[HIDDEN], 0, images)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_vit.modules())


def test_an_image_activates_a_unit_by_the_mean_square_of_its_output(tiny_vit, images):
    group = find_units(tiny_vit)["blocks.0.attn:head"]
    outputs = []
    tiny_vit.blocks[0].attn.proj.register_forward_pre_hook(lambda _m, args: outputs.append(args[0]))
    found = activation_strength(tiny_vit, group, 2, images)
    x = torch.cat(outputs)  # (8, 17 tokens, 3 heads of 8)
    torch.testing.assert_close(found, x[..., 16:24].square().mean((1, 2)))


def test_a_copy_is_most_redundant(tiny_vit, images):
    fc1 = tiny_vit.blocks[1].mlp.fc1
    with torch.no_grad():
        fc1.weight[9], fc1.bias[9] = fc1.weight[4], fc1.bias[4]
    near = redundant_units(tiny_vit, find_units(tiny_vit), HIDDEN, 4, images, 3)
    assert near[0] == 9 and 4 not in near and len(near) == 3


def test_heads_are_redundant_by_all_their_channels(tiny_vit, images):
    """Head 2 is head 0 with its dimensions mixed: all that head 0 puts out is a linear function of it."""
    attn = tiny_vit.blocks[0].attn
    mix = torch.randn(8, 8)
    with torch.no_grad():
        for part, matrix in ((0, None), (24, None), (48, mix)):  # queries, keys, values
            head = slice(part, part + 8), slice(part + 16, part + 24)
            weight, bias = attn.qkv.weight[head[0]], attn.qkv.bias[head[0]]
            attn.qkv.weight[head[1]] = weight if matrix is None else matrix @ weight
            attn.qkv.bias[head[1]] = bias if matrix is None else matrix @ bias
    assert redundant_units(tiny_vit, find_units(tiny_vit), "blocks.0.attn:head", 0, images, 5) == [2, 1]


def test_means_by_class():
    means = class_means(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 2, 2]), 3)
    assert means[0] == 1 and math.isnan(means[1]) and means[2] == 4
