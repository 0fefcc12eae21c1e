"""Heads and hidden units of every family of timm's: cut and gated models agree, and cost what the units state."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import timm
import torch
from timm.models import gcvit, metaformer, mvitv2, nest, volo
from torch import Tensor, nn
from versions import there

from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.testing import AdapterTests, check_gated_is_cut, random_plan, stir
from xpruner.units import UnitGroup, Units, find_units, prunable_parts

VIT = dict(depth=2, num_heads=3, embed_dim=48, img_size=64)
STAGES = dict(depths=(1, 1, 1, 2), num_heads=(1, 2, 3, 4), embed_dims=(16, 32, 48, 64))
SWIN = dict(depths=(1, 2), num_heads=(2, 4), embed_dim=24, img_size=64)
LEVIT = dict(depth=(1, 2, 1), embed_dim=(32, 48, 64), key_dim=8, num_heads=(2, 3, 4), img_size=64)
MAXX = dict(depths=(1, 1, 1, 2), embed_dim=(32, 32, 64, 96), img_size=96)
CONV = dict(depth_list=(1, 1, 1, 1, 2), width_list=(8, 16, 32, 64, 96))
ROPE = VIT | dict(num_heads=4, embed_dim=64)


def meta_former(**kwargs) -> nn.Module:
    mixers = (metaformer.SepConv, metaformer.SepConv, metaformer.Attention, metaformer.Attention)
    norms = (
        metaformer.LayerNorm2dNoBias,
        metaformer.LayerNorm2dNoBias,
        metaformer.LayerNormNoBias,
        metaformer.LayerNormNoBias,
    )
    return metaformer.MetaFormer(
        depths=(1, 1, 1, 2), dims=(32, 32, 64, 96), token_mixers=mixers, norm_layers=norms, **kwargs
    )


def multi_scale_vit(**kwargs) -> nn.Module:
    return mvitv2.MultiScaleVit(mvitv2.MultiScaleVitCfg(depths=(1, 2, 1), embed_dim=16), img_size=64, **kwargs)


NAMED: dict[str, dict[str, Any]] = {
    "aimv2_large_patch14_224": VIT,  # SwiGLU
    "beit_base_patch16_224": VIT,
    "cait_xxs24_224": VIT,
    "coat_mini": dict(serial_depths=(1, 2, 1, 1), parallel_depth=1, embed_dims=(32, 48, 48, 48), img_size=64),
    "coatnet_rmlp_nano_rw_224": MAXX,
    "convit_tiny": dict(depth=2, local_up_to_layer=1, num_heads=4, embed_dim=12, img_size=64),
    "cpubone_b2_bfrobust": CONV,
    "crossvit_9_dagger_240": dict(depth=[[1, 2, 0]], embed_dim=[24, 48], num_heads=[3, 3], img_size=120),
    "davit_tiny": STAGES | dict(window_size=4),
    "davit_base_fl": STAGES | dict(window_size=4),
    "deepseek_vit_412m": VIT | dict(img_size=56),
    "deit_tiny_distilled_patch16_224": VIT,
    "edgenext_xx_small": dict(depths=(1, 2, 2, 1)),
    "efficientformer_l1": dict(depths=(1, 1, 1, 2), embed_dims=(16, 32, 48, 64)),
    "efficientformerv2_s0": dict(depths=(1, 1, 2, 2), num_vit=1, embed_dims=(16, 32, 48, 64), img_size=64),
    "efficientvit_m0": dict(img_size=128, embed_dim=(32, 64, 96), key_dim=(8, 8, 8)),
    "eva02_tiny_patch14_224": VIT | dict(img_size=56),
    "eva_giant_patch14_224": VIT | dict(img_size=56),
    "fastvit_ma36": dict(layers=(1, 1, 1, 2), embed_dims=(16, 32, 32, 64)),
    "gemma4_vit_167m": VIT | dict(intermediate_size=64, position_embedding_size=16, img_size=96),
    "halo2botnet50ts_256": dict(img_size=128, width_factor=0.25, self_attn_kwargs=dict(block_size=4, halo_size=2)),
    "hiera_tiny_224": dict(stages=(1, 1, 2, 1), num_heads=2, embed_dim=16, img_size=64),
    "hieradet_small": dict(stages=(1, 1, 2, 1), global_att_blocks=(3,), embed_dim=16),
    "levit_128s": LEVIT,
    "levit_conv_256d": LEVIT,
    "lowformer_b1": CONV,
    "maxvit_tiny_pm_256": MAXX,
    "maxvit_tiny_tf_224": MAXX,
    "mobilenetv4_hybrid_medium_075": {},
    "mobilevit_xxs": {},
    "mobilevitv2_050": {},
    "naflexvit_base_patch16_map": VIT,
    "nextvit_small": dict(depths=(1, 1, 5, 1)),
    "pit_ti_distilled_224": dict(depth=(1, 1, 2), heads=(2, 4, 8), base_dims=(16, 16, 16), img_size=64),
    "pvt_v2_b0": STAGES,
    "pvt_v2_b2_li": STAGES,
    "qwen3_vit_88m": VIT,
    "resnet50_clip": dict(width_factor=0.25),
    "samvit_base_patch16": VIT | dict(global_attn_indexes=(1,), window_size=3),
    "swiftformer_xs": dict(layers=(1, 1, 1, 2), embed_dims=(16, 24, 32, 48)),
    "swinv2_tiny_window8_256": SWIN | dict(window_size=4),
    "swinv2_cr_tiny_ns_224": SWIN,
    "tiny_vit_5m_224": STAGES,
    "tnt_s_patch16_224": dict(depth=2, embed_dim=48, num_heads_outer=3, img_size=64),
    "twins_svt_small": STAGES | dict(img_size=64),
    "visformer_tiny": dict(depth=(1, 1, 1), num_heads=4, embed_dim=64, img_size=64),
    "vit_5b_patch16_sapiens2": ROPE | dict(num_kv_heads=(4, 2)),
    "vit_base_patch16_18x2_224": VIT,
    "vit_base_patch16_siglip_224": VIT,  # attention pooling
    "vit_base_patch16_xp_224": VIT,
    "vit_dlittle_patch16_reg1_gap_256": VIT,
    "vit_dpwee_patch16_reg1_gap_256": VIT,
    "vit_giant_patch14_dinov2": VIT | dict(img_size=56),
    "vit_medium_patch16_rope_reg1_gap_256": VIT,
    "vit_pwee_patch16_reg1_gap_256": VIT,
    "vit_relpos_small_patch16_224": VIT,
    "vit_small_patch16_rope_mixed_224": VIT,
    "vit_srelpos_small_patch16_224": VIT,
    "vitamin_small_224": dict(depth=1, img_size=64),
    "xcit_nano_12_p16_224": dict(depth=2, num_heads=3, embed_dim=48, img_size=64),
}
BY_CLASS: dict[str, Callable[..., nn.Module]] = {  # whose names take no arguments for their sizes
    "caformer": meta_former,
    "gcvit": partial(gcvit.GlobalContextVit, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), embed_dim=16, img_size=64),
    "mvitv2": multi_scale_vit,
    "nest": partial(nest.Nest, img_size=64, depths=(1, 1, 2), num_heads=(2, 2, 3), embed_dims=(32, 32, 48)),
    "volo": partial(volo.VOLO, (2, 1, 1, 2), embed_dims=(32, 48, 48, 48), num_heads=(2, 3, 3, 3), img_size=64),
}
PIXELS = {"efficientformer_l1": 224, "hieradet_small": 64}


def build(name: str, **kwargs) -> nn.Module:
    """Returns a small model in eval mode and double precision, with all its parameters and statistics stirred."""
    factory = BY_CLASS.get(name) or partial(timm.create_model, name, **NAMED.get(name, {}))
    return stir(factory(num_classes=5, **kwargs).double().eval(), 0.05)


@cache
def family(name: str) -> tuple[nn.Module, Units, Plan, Tensor]:
    """Returns a model that nobody may change, its units, a plan that cuts every group, and two images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build(name)
        side = PIXELS.get(name) or NAMED.get(name, {}).get("img_size", 64)
        units = find_units(model, size=(3, side, side))
        return model, units, random_plan(units), torch.randn(2, 3, side, side, dtype=torch.float64)


class TestEveryFamily(AdapterTests):
    saveable = False  # in double precision, and some made by class; test_checkpoint.py saves the families

    @pytest.fixture(params=[name for name in (*NAMED, *BY_CLASS) if there(name)])
    def name(self, request) -> str:
        return request.param

    @pytest.fixture(autouse=True)
    def heads_of_coat_cost_unequally(self, name, request):
        request.instance.tolerance = 2e-2 if name == "coat_mini" else 1e-9  # its larger kernels do more

    @pytest.fixture
    def model(self, name) -> nn.Module:
        return family(name)[0]

    @pytest.fixture
    def units(self, name) -> Units:
        return family(name)[1]

    @pytest.fixture
    def plans(self, name) -> list[Plan]:
        return [family(name)[2]]

    @pytest.fixture
    def images(self, name) -> Tensor:
        return family(name)[3]

    def test_the_cut_model_holds_what_the_plan_keeps(self, model, plans):
        (plan,) = plans
        parts = prunable_parts(apply(model, plan))
        assert {key: parts[key].size for key in plan.keep} == {key: len(kept) for key, kept in plan.keep.items()}

    def test_branches_without_units_are_the_biases_of_their_consumers(self, model, units, images):
        plan = Plan.of(units, {group.key: [] for group in one_of_each(model, units)})
        check_gated_is_cut(model, plan, images, units)
        assert units.cost(plan.keep) == pytest.approx(count_macs(apply(model, plan), images.shape[1:]), rel=1e-9)


def one_of_each(model: nn.Module, units: Units) -> list[UnitGroup]:
    """Returns a group for every class of module that may lose all its units of a kind."""
    parts = prunable_parts(model)
    may_be_empty = [g for g in units if parts[g.key].adapter.remains(parts[g.key].module) is not None]
    found = {(type(model.get_submodule(g.module)), g.kind): g for g in may_be_empty}
    return list(found.values())


SPANNED = {
    "vit_giant_patch14_dinov2": {"scale_mlp_norm": True},
    "eva02_tiny_patch14_224": {"scale_attn_inner": True, "scale_mlp": True},
    "vit_dlittle_patch16_reg1_gap_256": {"scale_attn_norm": True},
    "vit_tiny_patch16_224": VIT | {"scale_attn_norm": True, "scale_mlp_norm": True},
}


@pytest.mark.parametrize("name", [name for name in SPANNED if there(name)])
def test_a_norm_over_all_units_looks_at_those_that_are_left(name):
    model = build(name, **SPANNED[name]).double()
    units = find_units(model)
    assert any(group.gates[0].at == "norm" for group in units)
    images = torch.randn(2, *units.input_size, dtype=torch.float64)
    check_gated_is_cut(model, random_plan(units), images, units)


def test_a_norm_of_another_kind_over_all_units_is_refused_by_name():
    model = build("aimv2_large_patch14_224", **VIT, scale_mlp_norm=True)
    with pytest.raises(UsageError, match=r"'blocks.0.mlp' \(SwiGLU\): its RmsNorm spans all of its hidden units, so"):
        find_units(model)
    assert {group.kind for group in find_units(model, ["head"])} == {"head"}


def test_a_branch_behind_such_a_norm_cannot_be_emptied():
    model = build("vit_tiny_patch16_224", **VIT, scale_mlp_norm=True)
    plan = Plan.of(find_units(model), {"blocks.0.mlp:hidden": []})
    with pytest.raises(UsageError, match=r"keeps nothing of 'blocks.0.mlp:hidden'; keep at least one unit of it"):
        apply(model, plan)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lambda_resnet26t",
            "holds no unit .*; LambdaLayer is left whole because its output must have as many channels",
        ),
        ("bat_resnext26ts", "holds no unit .*; BatNonLocalAttn is left whole because it has no heads"),
    ],
)
def test_a_model_of_nothing_that_can_be_cut_is_refused_with_the_reason(name, message):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(UsageError, match=message):
        find_units(model)


def test_units_of_a_kind_may_be_absent():
    kinds = {name: {group.kind for group in family(name)[1]} for name in ("efficientvit_m0", "resnet50_clip")}
    assert kinds == {"efficientvit_m0": {"hidden"}, "resnet50_clip": {"head"}}


@pytest.mark.parametrize("name", [name for name in ["vit_5b_patch16_sapiens2"] if there(name)])
def test_heads_that_share_keys_and_values_are_one_unit(name):
    model, units, _, _ = family(name)
    assert [(group.size, group.gates[0].inner) for group in units if group.kind == "head"] == [(4, 16), (2, 32)]
    dense = model.blocks[1].attn
    attn = apply(model, Plan.of(units, {"blocks.1.attn:head": [1]})).blocks[1].attn
    assert (attn.num_heads, attn.num_kv_heads, attn.attn_dim, attn.kv_dim) == (2, 1, 32, 16)
    assert torch.equal(attn.q_proj.weight, dense.q_proj.weight[32:])
    assert torch.equal(attn.k_proj.weight, dense.k_proj.weight[16:])


def test_heads_and_hidden_units_of_one_layer():
    model, units, _, _ = family("vit_dpwee_patch16_reg1_gap_256")
    heads, hidden = units["blocks.0:head"], units["blocks.0:hidden"]
    dense = model.blocks[0]
    assert (heads.consumer, hidden.consumer) == ("blocks.0.out_proj", "blocks.0.out_proj")
    assert heads.channels[1].tolist() == [*range(16, 32)]
    assert hidden.channels[:2].tolist() == [[48], [49]]
    block = apply(model, Plan.of(units, {heads.key: [0, 2], hidden.key: [7, 190]})).blocks[0]
    rows = [7, 190, *(240 + part + head + i for part in (0, 48, 96) for head in (0, 32) for i in range(16))]
    assert block.in_split == [2, 32, 32, 32]
    assert torch.equal(block.in_proj.weight, dense.in_proj.weight[rows])
    assert torch.equal(block.out_proj.weight, dense.out_proj.weight[:, [*range(16), *range(32, 48), 55, 238]])


def test_the_values_of_a_talking_head_are_cut_and_its_map_stays():
    model, units, _, _ = family("cait_xxs24_224")
    heads, tokens = units["blocks.0.attn:head"], 16
    assert heads.macs == tokens * 16 * (48 + 48) + tokens**2 * (3 + 16)
    assert heads.params == 16 * (48 + 1) + 3 + 1 + 16 * 48
    attn = apply(model, Plan.of(units, {heads.key: [2]})).blocks[0].attn
    assert (attn.num_heads, attn.num_value_heads) == (3, 1)
    assert torch.equal(attn.qkv.weight, model.blocks[0].attn.qkv.weight[[*range(96), *range(128, 144)]])


def test_a_unit_behind_a_grouped_convolution_is_a_channel_of_every_group():
    model, units, _, _ = family("visformer_tiny")
    group = next(group for group in units if group.kind == "hidden")
    dense = model.get_submodule(group.module)
    width = dense.conv2.out_channels // 8
    assert (group.size, group.gates[0].outer, group.channels[1].tolist()) == (width, 8, [*range(1, 8 * width, width)])
    mlp = apply(model, Plan.of(units, {group.key: [1, 3]})).get_submodule(group.module)
    assert (mlp.conv1.out_channels, mlp.conv2.out_channels, mlp.conv2.groups, mlp.conv3.in_channels) == (
        8 * width,
        16,
        8,
        16,
    )
    assert torch.equal(mlp.conv2.weight[:2], dense.conv2.weight[[1, 3]])


def test_hidden_units_of_little_mlps_for_positions_are_no_units():
    for name in ("swinv2_cr_tiny_ns_224", "coatnet_rmlp_nano_rw_224", "vit_srelpos_small_patch16_224"):
        assert not any("meta_mlp" in group.module or "rel_pos" in group.module for group in family(name)[1])


@torch.no_grad()
def test_biases_kept_for_eval_mode_are_forgotten():
    model, units, _, images = family("levit_128s")
    heads = units.groups[0]
    model(images)
    assert model.get_submodule(heads.module).attention_bias_cache["cpu"].shape[0] == heads.size == 2
    pruned = apply(model, Plan.of(units, {heads.key: [1]}))
    pruned(images)
    assert pruned.get_submodule(heads.module).attention_bias_cache["cpu"].shape[0] == 1
