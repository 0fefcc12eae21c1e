"""What holds for every model of transformers, whichever its family and kind of attention."""

import importlib.util

import pytest
import torch
from tiny_transformers import MODELS, SIDE, tiny
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import BeitConfig, BeitModel, ViTConfig, ViTModel
from versions import there

from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs, input_size
from xpruner.plan.plan import Plan
from xpruner.runtime.outputs import tensors_of
from xpruner.surgery import apply
from xpruner.testing import check_costs, check_gated_is_cut, check_gates_act_on_their_image, check_trains, random_plan
from xpruner.units import find_units, prunable_parts
from xpruner.units.registry import _adapters, _left_whole

SIZE = (3, SIDE, SIDE)
CASES = [(name, kind) for name in MODELS for kind in ("sdpa", "eager") if kind == "eager" or tiny(name)._supports_sdpa]


def assert_alike(given: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(given) == len(wanted) > 0
    for mine, theirs in zip(given, wanted, strict=True):
        assert theirs.isfinite().all()
        assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_gated_and_cut_models_agree_and_cost_what_was_told(name, attention):
    model, images = tiny(name, attention), torch.randn(2, *SIZE)
    units = find_units(model, size=SIZE)
    plan = random_plan(units)
    check_gated_is_cut(model, plan, images, units)
    check_costs(model, plan, units, tolerance=1e-6)
    assert {part.size for part in prunable_parts(apply(model, plan)).values()} == {(g.size + 1) // 2 for g in units}


@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_model_learns(name):
    model, images = tiny(name), torch.randn(2, *SIZE)
    pruned = apply(model, random_plan(find_units(model, size=SIZE)))
    assert check_trains(pruned, images) == check_trains(model, images) != []


@pytest.mark.parametrize("name", MODELS)
def test_each_sample_has_its_own_gates(name):
    model = tiny(name)
    units = find_units(model, size=SIZE)
    check_gates_act_on_their_image(model, random_plan(units), torch.randn(2, *SIZE), units)


@pytest.mark.parametrize("name", ["pvt v2", "swin v2", "hiera", "yolos", "deformable detr", "beit"])
def test_a_pruned_model_is_pruned_again(name):
    model, images = tiny(name), torch.randn(2, *SIZE)
    first = random_plan(find_units(model, size=SIZE))
    once = apply(model, first)
    units = find_units(once, size=SIZE)
    second = random_plan(units, seed=1)
    check_gated_is_cut(once, second, images, units)
    with torch.no_grad():
        assert_alike(tensors_of(apply(model, second.after(first))(images)), tensors_of(apply(once, second)(images)))


@pytest.mark.parametrize(
    "name", ["vit", "beit", "dinov3 gated", "swin", "segformer", "pvt v2", "hiera", "detr", "clip"]
)
def test_an_mlp_may_lose_all_its_hidden_units(name):
    model, images = tiny(name), torch.randn(2, *SIZE)
    units = find_units(model, ["hidden"], size=SIZE)
    plan = Plan.of(units, {group.key: [] for group in units})
    check_gated_is_cut(model, plan, images, units)
    assert units.cost(plan.keep) == pytest.approx(count_macs(apply(model, plan), SIZE), rel=1e-6)


def test_groups_lie_in_the_layer_where_units_reach_over_its_modules():
    assert [group.key for group in find_units(tiny("yolos"))][:2] == [
        "vit.encoder.layer.0:head",
        "vit.encoder.layer.0:hidden",
    ]
    assert [group.key for group in find_units(tiny("beit"))][:2] == ["beit.layers.0:head", "beit.layers.0.mlp:hidden"]
    assert [group.key for group in find_units(tiny("vit"))][:2] == ["layers.0.attention:head", "layers.0.mlp:hidden"]


def test_vit_costs_by_hand():
    heads, hidden, *_ = find_units(tiny("vit"))
    tokens, dim, width = 16 + 1, 24, 8
    assert (heads.consumer, heads.size, heads.gates[0].inner) == ("layers.0.attention.o_proj", 3, width)
    assert heads.macs == tokens * (4 * dim * width + 2 * tokens * width)
    assert heads.params == 3 * width * (dim + 1) + width * dim
    assert (hidden.consumer, hidden.size) == ("layers.0.mlp.fc2", 40)
    assert (hidden.macs, hidden.params) == (tokens * 2 * dim, 2 * dim + 1)


def test_swin_v2_costs_by_hand():
    heads = find_units(tiny("swin v2")).groups[0]
    tokens, dim, width, area, distances = 64, 12, 6, 16, 7 * 7
    assert heads.macs == tokens * (4 * dim * width + 2 * area * width) + distances * 512
    assert heads.params == 4 * dim * width + 2 * width + 512 + 1  # no bias of the keys; positions; a scale


def test_the_map_of_keys_and_values_is_no_part_of_the_heads():
    heads = find_units(tiny("segformer"), size=SIZE).groups[0]
    tokens, keys, dim, width = 64, 16, 12, 6
    assert heads.macs == tokens * 2 * dim * width + keys * 2 * dim * width + 2 * tokens * keys * width


@pytest.mark.parametrize("name", ["clip classifier", "siglip classifier", "hiera", "swin", "yolos"])
def test_the_images_are_as_large_as_the_configuration_says(name):
    assert input_size(tiny(name)) == SIZE


def test_heads_that_predict_are_left_whole():
    for name, whole in (("yolos", "bbox_predictor."), ("segformer segmentation", "decode_head.")):
        keys = list(prunable_parts(tiny(name)))
        assert keys and not any(key.startswith(whole) for key in keys)
        assert any(path.startswith(whole) for path, _ in tiny(name).named_parameters())


def test_siglips_pooling_head_loses_hidden_units_alone():
    units = find_units(tiny("siglip"))
    assert [group.key for group in units if group.key.startswith("head")] == ["head:hidden"]
    assert (units["head:hidden"].macs, units["head:hidden"].params) == (2 * 24, 2 * 24 + 1)  # of one pooled token


def test_heads_that_share_one_table_of_positions_are_refused():
    shape = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=40, image_size=32)
    model = BeitModel(BeitConfig(**shape, patch_size=8, use_shared_relative_position_bias=True))
    with pytest.raises(UsageError, match=r"'layers.0' \(BeitLayer\): all layers share one table"):
        find_units(model)
    assert [group.key for group in find_units(model, ["hidden"])] == ["layers.0.mlp:hidden"]


def test_a_changed_module_is_refused_by_name():
    class MyMLP(nn.Linear):
        pass

    model = ViTModel(ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, image_size=32, patch_size=8))
    model.layers[0].mlp = MyMLP(24, 24)
    with pytest.raises(UsageError, match=r"'layers.0.mlp': its class MyMLP has no adapter"):
        find_units(model)


@pytest.mark.parametrize("name", sorted(name for name in (*_adapters, *_left_whole) if isinstance(name, str)))
def test_every_registered_name_is_a_class(name):
    module, _, leaf = name.rpartition(".")
    if name.startswith("timm.") and not importlib.util.find_spec(module):
        assert not there("lowformer_b1")
        return
    assert issubclass(getattr(importlib.import_module(module), leaf), nn.Module)


def test_pvts_replacement_hands_out_the_same_attention():
    model, images = tiny("pvt v2"), torch.randn(2, *SIZE)
    parts = {key: part for key, part in prunable_parts(model).items() if key.endswith(":head")}
    with torch.no_grad():
        wanted = tensors_of(model(images, output_attentions=True))
        for part in parts.values():
            parent, _, leaf = part.path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, part.adapter.resizable(part.module))
        assert len(wanted) == 1 + len(parts)
        assert_alike(tensors_of(model(images, output_attentions=True)), wanted)
