import copy

import pytest
import timm
import torch
from tiny_models import MODELS, VIT, build, tiny, units_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from xpruner.errors import UsageError
from xpruner.units import find_units, leave_whole, prunable_parts, register_adapter
from xpruner.units.adapters.timm.vit import HiddenAdapter
from xpruner.units.registry import _adapters


def test_vit_groups_in_forward_order(tiny_vit):
    units = find_units(tiny_vit)
    assert [group.key for group in units] == [
        "blocks.0.attn:head",
        "blocks.0.mlp:hidden",
        "blocks.1.attn:head",
        "blocks.1.mlp:hidden",
    ]
    heads, hidden = units["blocks.1.attn:head"], units["blocks.1.mlp:hidden"]
    assert (heads.kind, heads.module, heads.consumer) == ("head", "blocks.1.attn", "blocks.1.attn.proj")
    assert (hidden.kind, hidden.module, hidden.consumer) == ("hidden", "blocks.1.mlp", "blocks.1.mlp.fc2")
    assert (heads.size, heads.gates[0].inner, hidden.size, hidden.gates[0].inner) == (3, 8, 96, 1)
    assert len(units) == 4
    assert units.input_size == (3, 32, 32)


def test_vit_costs_by_hand(tiny_vit):
    units = find_units(tiny_vit)
    heads, hidden = units["blocks.0.attn:head"], units["blocks.0.mlp:hidden"]
    tokens, dim, head_dim = 16 + 1, 24, 8
    assert heads.macs == tokens * (4 * dim * head_dim + 2 * tokens * head_dim) == 17680
    assert heads.params == 3 * head_dim * (dim + 1) + head_dim * dim == 792
    assert hidden.macs == tokens * 2 * dim == 816
    assert hidden.params == 2 * dim + 1 == 49
    embedding, classifier = 16 * (3 * 8 * 8) * dim, dim * 5  # the classifier reads the class token alone
    assert units.total_macs == embedding + 2 * (3 * 17680 + 96 * 816) + classifier == 336600
    block = 3 * 792 + dim + 96 * 49 + dim + 4 * dim  # biases of proj and fc2, and two norms
    embedding = (3 * 8 * 8 + 1) * dim + dim + tokens * dim  # with class token and positions
    assert units.total_params == embedding + 2 * block + 2 * dim + (dim + 1) * 5 == 19685


def test_swin_costs_by_hand(tiny_swin):
    units = find_units(tiny_swin)
    assert [(g.key, g.size, g.gates[0].inner) for g in units][::2] == [
        ("layers.0.blocks.0.attn:head", 2, 6),
        ("layers.0.blocks.1.attn:head", 2, 6),
        ("layers.1.blocks.0.attn:head", 4, 6),
        ("layers.1.blocks.1.attn:head", 4, 6),
    ]
    first, last = units["layers.0.blocks.1.attn:head"], units["layers.1.blocks.1.attn:head"]
    tokens, window, bias_table = 16 * 16, 4 * 4, 7 * 7
    assert first.macs == tokens * (4 * 12 * 6 + 2 * window * 6) == 122880
    assert last.macs == tokens / 4 * (4 * 24 * 6 + 2 * window * 6) == 49152
    assert first.params == 3 * 6 * (12 + 1) + 6 * 12 + bias_table == 355
    assert last.params == 3 * 6 * (24 + 1) + 6 * 24 + bias_table == 643
    first_hidden, last_hidden = units["layers.0.blocks.1.mlp:hidden"], units["layers.1.blocks.1.mlp:hidden"]
    assert (first_hidden.size, first_hidden.macs, first_hidden.params) == (48, tokens * 24, 25)
    assert (last_hidden.size, last_hidden.macs, last_hidden.params) == (96, tokens / 4 * 48, 49)
    blocks = 2 * (2 * 122880 + 48 * 6144) + 2 * (4 * 49152 + 96 * 3072)
    embedding, merging, classifier = tokens * 12 * 12, tokens / 4 * 48 * 24, 24 * 5
    assert units.total_macs == embedding + blocks + merging + classifier == 2175096


def test_padded_windows_cost_what_they_really_cost():
    heads = units_of("swin_padded_windows")["layers.0.blocks.0.attn:head"]
    tokens, window = 15 * 20, 25  # a 12 x 18 map in windows of 5 x 5
    assert heads.macs == tokens * (4 * 12 * 6 + 2 * window * 6)


def test_a_distilled_deit_has_one_more_token():
    heads = units_of("deit_distilled")["blocks.0.attn:head"]
    assert heads.macs == 18 * (4 * 24 * 8 + 2 * 18 * 8)


def test_missing_biases_are_not_counted():
    units = units_of("vit_without_biases")
    assert units["blocks.0.attn:head"].params == 4 * 24 * 8
    assert units["blocks.0.mlp:hidden"].params == 48


def test_an_odd_number_of_heads_with_a_width_of_their_own():
    heads = units_of("swin_odd_heads")["layers.1.blocks.0.attn:head"]
    assert (heads.size, heads.gates[0].inner) == (3, 5)
    assert heads.macs == 64 * (4 * 24 * 5 + 2 * 16 * 5)


@pytest.mark.parametrize("name", MODELS)
def test_totals_agree_with_torchs_counter(name):
    units = units_of(name)
    for device in ("meta", "cpu"):
        model = tiny(name, fused=False).to(device)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, *units.input_size, device=device))
        assert units.total_macs == counter.get_total_flops() / 2
    assert units.total_params == sum(parameter.numel() for parameter in model.parameters())


def test_fused_and_unfused_attention_cost_the_same():
    assert find_units(tiny("swin", fused=True)) == find_units(tiny("swin", fused=False))


def test_one_kind_alone(tiny_vit):
    assert [group.kind for group in find_units(tiny_vit, ["head"])] == ["head", "head"]
    assert [group.kind for group in find_units(tiny_vit, ["hidden"])] == ["hidden", "hidden"]


def test_another_image_size():
    model = build("vit_tiny_patch16_224", dynamic_img_size=True, **VIT)
    units = find_units(model, size=(3, 64, 32))
    assert units["blocks.0.mlp:hidden"].macs == (8 * 4 + 1) * 48
    assert units.input_size == (3, 64, 32)


def test_cost_of_what_is_kept(tiny_vit):
    units = find_units(tiny_vit)
    keep = {"blocks.0.attn:head": [0, 2], "blocks.1.mlp:hidden": []}
    assert units.cost(keep) == 336600 - 17680 - 96 * 816
    assert units.cost(keep, "params") == 19685 - 792 - 96 * 49
    assert units.cost({}) == units.total("macs")


def test_an_unknown_group_names_the_nearest(tiny_vit):
    with pytest.raises(UsageError, match=r"unit group 'blocks.0.attn:heads'; did you mean 'blocks.0.attn:head'"):
        find_units(tiny_vit)["blocks.0.attn:heads"]


def test_an_unknown_kind_names_the_nearest(tiny_vit):
    with pytest.raises(UsageError, match=r"Unknown unit kind 'heads'; did you mean 'head'\?"):
        find_units(tiny_vit, ["heads"])


def test_a_query_norm_stands_against_query_key_dimensions_alone():
    model = tiny("vit_without_biases")
    with pytest.raises(UsageError, match=r"'blocks.0.attn' \(Attention\): its norm spans all dimensions of a query, "
                       ".*; leave 'qk' out of the kinds"):  # fmt: skip
        find_units(model, ["head", "qk"])
    assert {group.kind for group in find_units(model, ["head", "v"])} == {"head", "v"}
    assert "blocks.0.attn:qk" not in prunable_parts(model)


def test_a_network_without_attention_is_refused():
    with torch.device("meta"):
        model = timm.create_model("resnet18")
    with pytest.raises(UsageError, match="The ResNet holds no unit of the kinds head, hidden; nothing to prune"):
        find_units(model)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UsageError, match="holds no unit of the kinds head, hidden; nothing to prune"):
        find_units(build("vit_tiny_patch16_224", **VIT | dict(depth=0)))


def test_a_registered_adapter_serves_exactly_its_class(tiny_vit, monkeypatch):
    class MyMlp(timm.layers.Mlp):
        pass

    monkeypatch.setattr("xpruner.units.registry._adapters", copy.copy(_adapters))
    tiny_vit.blocks[0].mlp.__class__ = MyMlp
    register_adapter(MyMlp)(HiddenAdapter)
    assert find_units(tiny_vit)["blocks.0.mlp:hidden"].size == 96


def test_a_class_that_is_left_whole_on_purpose_is_no_reason_to_refuse(tiny_vit, monkeypatch):
    class OddMlp(timm.layers.Mlp):
        pass

    monkeypatch.setattr("xpruner.units.registry._left_whole", {})
    tiny_vit.blocks[0].mlp.__class__ = OddMlp
    with pytest.raises(UsageError, match=r"'blocks.0.mlp': its class OddMlp has no adapter; write one and register"):
        find_units(tiny_vit)
    leave_whole(OddMlp, why="it is odd")
    assert [group.key for group in find_units(tiny_vit, ["hidden"])] == ["blocks.1.mlp:hidden"]


def test_the_model_is_left_as_it_was(tiny_swin):
    tiny_swin.train()
    tiny_swin.layers[0].blocks[0].eval()
    modes = [module.training for module in tiny_swin.modules()]
    weights = copy.deepcopy(tiny_swin.state_dict())
    find_units(tiny_swin)
    assert [module.training for module in tiny_swin.modules()] == modes
    assert all(isinstance(p, nn.Parameter) and p.device.type == "cpu" for p in tiny_swin.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tiny_swin.state_dict().items())


def test_printed_units_are_a_table_of_groups(tiny_vit):
    units = find_units(tiny_vit)
    assert str(units).splitlines() == [
        "group                kind    units  MACs/unit  params/unit  of the MACs",
        "blocks.0.attn:head   head        3    17.68 k          792       15.8 %",  # 3 x 17680 / 336600
        "blocks.0.mlp:hidden  hidden     96        816           49       23.3 %",  # 96 x 816 / 336600
        "blocks.1.attn:head   head        3    17.68 k          792       15.8 %",
        "blocks.1.mlp:hidden  hidden     96        816           49       23.3 %",
        "4 groups, 198 units; the whole model: 336.60 k MACs for an image of 3 x 32 x 32, 19.68 k parameters",
    ]
    assert repr(units) == "Units(4 groups, 198 units)"
