"""Which weights belong to which unit: exactly those that surgery would cut with it."""

import pytest
import torch
from tiny_models import MODELS, tiny

from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units
from xpruner.units.weights import resizable_copy, unit_weights

KINDS = ("head", "hidden", "qk", "v", "embed")


REFUSED = {"vit_without_biases": "qk", "vit_post_norm": "embed"}
"""One has norms over queries, the other a stream that cannot be followed."""


def kinds_of(name: str) -> list[str]:
    return [kind for kind in KINDS if kind != REFUSED.get(name)]


@pytest.mark.parametrize("name", MODELS)
def test_the_copy_computes_the_same(name):
    model = tiny(name)
    images = torch.randn(2, 3, *((24, 36) if name == "swin_padded_windows" else (32, 32)))
    with torch.no_grad():
        assert torch.allclose(
            resizable_copy(model, find_units(model, kinds_of(name)))(images), model(images), atol=1e-5
        )


@pytest.mark.parametrize("name", MODELS)
def test_a_unit_has_as_many_parameters_as_surgery_cuts(name):
    model = tiny(name)
    units = find_units(model, kinds_of(name))
    whole = resizable_copy(model, units)
    count = sum(parameter.numel() for parameter in whole.parameters())
    for key, tensors in unit_weights(whole, units).items():
        numbers = sum(tensor.shape[1] for tensor in tensors)
        size = units[key].size
        cut = apply(whole, Plan({key: list(range(size - 1))}, {key: size}))
        assert numbers == count - sum(parameter.numel() for parameter in cut.parameters())


def test_the_numbers_are_those_of_the_unit(tiny_vit):
    units = find_units(tiny_vit)
    tensors = unit_weights(tiny_vit, units)["blocks.1.mlp:hidden"]
    mlp = tiny_vit.blocks[1].mlp
    expected = torch.cat([mlp.fc1.weight[5], mlp.fc1.bias[5:6], mlp.fc2.weight[:, 5]])
    assert torch.equal(torch.cat([tensor[5] for tensor in tensors]), expected)


def test_what_is_wanted_of_a_parameter_is_up_to_the_caller(tiny_vit):
    tiny_vit(torch.randn(2, 3, 32, 32)).sum().backward()
    units = find_units(tiny_vit)
    products = unit_weights(tiny_vit, units, lambda parameter: parameter.detach() * parameter.grad)
    attention = tiny_vit.blocks[0].attn
    rows = (attention.qkv.weight * attention.qkv.weight.grad).view(3, 3, 8, 24)
    assert torch.equal(products["blocks.0.attn:head"][0][2], rows[:, 2].flatten())


def test_a_parameter_that_several_groups_share_is_asked_for_once(tiny_vit):
    units = find_units(tiny_vit, KINDS)
    whole, asked = resizable_copy(tiny_vit, units), []

    def of(parameter):
        asked.append(id(parameter))
        return parameter.detach()

    unit_weights(whole, units, of)
    assert len(asked) == len(set(asked))
    assert id(whole.get_parameter("blocks.0.attn.qk.weight")) in asked
