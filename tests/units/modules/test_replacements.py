"""A replacement computes what the stock module computes, and with fewer heads what that computes when gated."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from timm import layers
from timm.models import (
    beit,
    cait,
    coat,
    convit,
    crossvit,
    davit,
    edgenext,
    efficientformer_v2,
    eva,
    fastvit,
    gcvit,
    metaformer,
    nest,
    nextvit,
    pvt_v2,
    swin_transformer_v2,
    swin_transformer_v2_cr,
    twins,
    vision_transformer,
    vision_transformer_relpos,
    volo,
    xcit,
)
from torch import Tensor, nn
from torch.testing import assert_close
from versions import there

from xpruner.units.modules.replacements import RESIZABLE

DIM, HEADS, KEEP = 24, 4, [1, 3]
PACKED, Q_KV, THREE = {"qkv": 3}, {"q": 1, "kv": 2}, {"q": 1, "k": 1, "v": 1}
TOKENS, WINDOWS, MAP = (2, 16, DIM), (4, 9, DIM), (2, DIM, 4, 4)
MASK = torch.linspace(-3, 3, 2 * 9 * 9).sin().view(2, 9, 9)


@dataclass
class Case:
    """A stock module, what it is called with, and where its heads lie.

    Attributes:
        build: Makes the module.
        shape: Of its first input.
        rows: Layers and bare tensors whose axis 0 reads (outer, heads, inner), with the number outer.
        second: Tensors with the heads along axis 1.
        more: What the module is called with beside its first input.
        sets: Attributes of the replacement with two heads, by dotted path.
        start: How many channels lie in front of the heads, by layer.
        consumer: The layer that reads the heads.
        repeats: How often the heads repeat in its input.
        behind: How many of its input channels lie behind the heads.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = TOKENS
    rows: dict[str, int] = field(default_factory=lambda: PACKED)
    second: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=lambda: {"num_heads": 2})
    start: dict[str, int] = field(default_factory=dict)
    consumer: str = "proj"
    repeats: int = 1
    behind: int = 0


def biases(shape: tuple[int, ...]) -> Tensor:
    return torch.linspace(-3, 3, torch.Size(shape).numel()).sin().view(shape)


def conv_heads() -> coat.FactorAttnConvRelPosEnc:
    crpe = coat.ConvRelPosEnc(DIM // HEADS, HEADS, {3: 1, 5: 2, 7: 1})
    return coat.FactorAttnConvRelPosEnc(DIM, HEADS, qkv_bias=True, shared_crpe=crpe)


RELATIVE = partial(layers.RelPosBias, window_size=(3, 3))
RELATIVE_MLP = partial(layers.RelPosMlp, window_size=(3, 3), mode="swin")
FUSED_BIASES = {"qkv": 3, "q_bias": 1, "k_bias": 1, "v_bias": 1}
SPLIT = {"q_proj": 1, "k_proj": 1, "v_proj": 1}
BIAS_SHAPE = {"num_heads": 2, "rel_pos.bias_shape": (9, 9, 2)}
ROPE, ROPE_OF_HEADS = biases((16, 12)), biases((HEADS, 16, 12))
START_IN = {"in_proj": 40}
SPLIT_IN = {"num_heads": 2, "in_split": [40, 12, 12, 12]}
TALKING = {"v": 1, "v_local": 1, "talking_head2": 1}
EVA = partial(eva.EvaAttention, DIM, HEADS, norm_layer=nn.LayerNorm, scale_norm=False, num_prefix_tokens=0)
ROPES = partial(layers.AttentionRope, DIM, norm_layer=nn.LayerNorm, num_prefix_tokens=0)
LATENT = partial(layers.AttentionPoolLatent, DIM, num_heads=HEADS)
PARALLEL = partial(vision_transformer.ParallelScalingBlock, DIM, HEADS, mlp_ratio=40 / DIM, init_values=0.5)
DIFF_PARALLEL = partial(vision_transformer.DiffParallelScalingBlock, DIM, HEADS, mlp_ratio=40 / DIM)
RELPOS = partial(vision_transformer_relpos.RelPosAttention, DIM, HEADS)
SWIN_V2 = partial(swin_transformer_v2.WindowAttention, DIM, (3, 3), HEADS)
BEIT = partial(beit.Attention, DIM, HEADS)
TALKING_CONV = partial(efficientformer_v2.Attention2d, DIM, key_dim=4, num_heads=HEADS, attn_ratio=2)

CASES = {
    "metaformer": Case(partial(metaformer.Attention, DIM, 6, qkv_bias=True)),
    "convit": Case(partial(convit.MHSA, DIM, HEADS)),
    "volo": Case(partial(volo.Attention, DIM, HEADS), (2, 3, 4, DIM)),
    "fastvit": Case(partial(fastvit.Attention, DIM, 6), (2, DIM, 3, 4)),
    "nest": Case(partial(nest.Attention, DIM, HEADS), (2, 4, 9, DIM), repeats=6),
    "davit windows": Case(partial(davit.WindowAttention, DIM, (3, 3), HEADS), WINDOWS),
    "twins windows": Case(partial(twins.LocallyGroupedAttn, DIM, HEADS, ws=3), (2, 20, DIM), more={"size": (4, 5)}),
    "twins": Case(partial(twins.GlobalSubSampleAttn, DIM, HEADS, sr_ratio=2), rows=Q_KV, more={"size": (4, 4)}),
    "twins, whole map": Case(partial(twins.GlobalSubSampleAttn, DIM, HEADS), rows=Q_KV, more={"size": (4, 4)}),
    "pvt": Case(partial(pvt_v2.Attention, DIM, HEADS, 2), rows=Q_KV, more={"feat_size": (4, 4)}),
    "pvt, linear": Case(partial(pvt_v2.Attention, DIM, HEADS, linear_attn=True), rows=Q_KV, more={"feat_size": (4, 4)}),
    "nextvit": Case(partial(nextvit.EfficientAttention, DIM, head_dim=6, sr_ratio=2), rows=THREE),
    "crossvit": Case(partial(crossvit.CrossAttention, DIM, HEADS, True), rows={"wq": 1, "wk": 1, "wv": 1}),
    "cait class": Case(partial(cait.ClassAttn, DIM, HEADS), rows=THREE),
    "latent": Case(partial(LATENT, qk_norm=True, pos_embed="abs", feat_size=16), rows=Q_KV),
    "latent, mean": Case(
        partial(LATENT, latent_len=3, pool_type="avg"), rows=Q_KV, more={"attn_mask": biases((3, 16))}
    ),
    "latent, no pool": Case(partial(LATENT, latent_len=3, pool_type=""), rows=Q_KV),
    "beit": Case(
        partial(BEIT, qkv_bias=True, window_size=(3, 3)), (2, 10, DIM), FUSED_BIASES, ("relative_position_bias_table",)
    ),
    "beit, two tables": Case(
        partial(BEIT, qkv_bias=True, qkv_bias_separate=True, window_size=(3, 3)),
        (2, 10, DIM),
        {**FUSED_BIASES, "kept_heads": 1},
        ("relative_position_bias_table",),
        {"shared_rel_pos_bias": biases((HEADS, 10, 10))},
    ),
    "beit, shared table": Case(
        BEIT, rows={"qkv": 3, "kept_heads": 1}, more={"shared_rel_pos_bias": biases((1, HEADS, 16, 16))}
    ),
    "beit, no table": Case(BEIT),
    "relpos": Case(
        partial(RELPOS, qk_norm=True, rel_pos_cls=RELATIVE),
        WINDOWS,
        second=("rel_pos.relative_position_bias_table",),
        sets=BIAS_SHAPE,
    ),
    "relpos mlp": Case(
        partial(RELPOS, rel_pos_cls=RELATIVE_MLP),
        WINDOWS,
        {"qkv": 3, "rel_pos.mlp.fc2": 1},
        sets={**BIAS_SHAPE, "rel_pos.num_heads": 2},
    ),
    "relpos, shared": Case(
        RELPOS, rows={"qkv": 3, "kept_heads": 1}, more={"shared_rel_pos": biases((1, HEADS, 16, 16))}
    ),
    "gcvit": Case(
        partial(gcvit.WindowAttentionGlobal, DIM, HEADS, (3, 3), use_global=False),
        WINDOWS,
        second=("rel_pos.relative_position_bias_table",),
        more={"q_global": biases((2, 3, 3, DIM))},
        sets=BIAS_SHAPE,
    ),
    "gcvit, global": Case(
        partial(gcvit.WindowAttentionGlobal, DIM, HEADS, (3, 3)),
        WINDOWS,
        {"qkv": 2, "kept_heads": 1},
        ("rel_pos.relative_position_bias_table",),
        {"q_global": biases((2, 3, 3, DIM))},
        BIAS_SHAPE,
    ),
    "swin v2": Case(SWIN_V2, WINDOWS, {**FUSED_BIASES, "logit_scale": 1, "cpb_mlp.2": 1}, more={"mask": MASK}),
    "swin v2, separate": Case(
        partial(SWIN_V2, qkv_bias_separate=True), WINDOWS, {**FUSED_BIASES, "logit_scale": 1, "cpb_mlp.2": 1}
    ),
    "swin v2, no bias": Case(partial(SWIN_V2, qkv_bias=False), WINDOWS, {"qkv": 3, "logit_scale": 1, "cpb_mlp.2": 1}),
    "swin v2 cr": Case(
        partial(swin_transformer_v2_cr.WindowMultiHeadAttention, DIM, HEADS, (3, 3)),
        WINDOWS,
        {"qkv": 3, "logit_scale": 1, "meta_mlp.fc2": 1},
        more={"mask": MASK},
    ),
    "rope": Case(
        partial(ROPES, HEADS, gated=True),
        rows={"qkv": 3, "gate": 1, "kept_heads": 1},
        more={"rope": ROPE_OF_HEADS},
        sets={"num_heads": 2, "attn_dim": 12},
    ),
    "rope, grouped": Case(
        partial(ROPES, 2 * HEADS, num_kv_heads=HEADS, attn_head_dim=6, qkv_fused=False, qk_norm=True),
        rows={**SPLIT, "kept_heads": 1},
        more={"rope": ROPE},
        sets={"num_heads": 4, "num_kv_heads": 2, "attn_dim": 24, "kv_dim": 12},
    ),
    "eva": Case(
        partial(EVA, gated=True, qk_norm=True), rows={**FUSED_BIASES, "gate": 1}, more={"rope": ROPE, "is_causal": True}
    ),
    "eva, mixed": Case(
        partial(EVA, qkv_bias_separate=True), rows={**FUSED_BIASES, "kept_heads": 1}, more={"rope": ROPE_OF_HEADS}
    ),
    "eva, half": Case(
        partial(EVA, qkv_fused=False, rotate_half=True),
        rows=SPLIT,
        more={"rope": biases((2, 1, 16, 12)), "attn_mask": torch.ones(16, 16).tril(3).bool()},
    ),
    "eva, prefix": Case(
        partial(eva.EvaAttention, DIM, HEADS, False, scale_norm=False, num_prefix_tokens=2), more={"rope": ROPE[2:]}
    ),
    "eva, no rope": Case(EVA, rows=FUSED_BIASES, more={"attn_mask": biases((16, 16))}),
    "gpsa": Case(partial(convit.GPSA, DIM, HEADS), rows={"qk": 2, "v": 1, "pos_proj": 1, "gating_param": 1}),
    "xcit": Case(partial(xcit.XCA, DIM, HEADS, True), rows={"qkv": 3, "temperature": 1}),
    "edgenext": Case(partial(edgenext.CrossCovarianceAttn, DIM, HEADS), rows={"qkv": 3, "temperature": 1}),
    "davit channels": Case(partial(davit.ChannelAttention, DIM, HEADS)),
    "davit channels 2": Case(partial(davit.ChannelAttentionV2, DIM, HEADS), sets={"groups": 2}),
    "davit channels 2, static": Case(
        partial(davit.ChannelAttentionV2, DIM, HEADS, dynamic_scale=False), sets={"groups": 2}
    ),
    "coat": Case(conv_heads, (2, 13, DIM), more={"size": (3, 4)}, sets={"num_heads": 2, "crpe_heads": ()}),
    "outlook": Case(partial(volo.OutlookAttention, DIM, HEADS, stride=2), (2, 5, 6, DIM), {"v": 1, "attn": 1}),
    "nextvit conv": Case(
        partial(nextvit.ConvAttention, DIM, 6),
        MAP,
        {"group_conv3x3": 1, "norm": 1, "kept_channels": 1},
        sets={"group_conv3x3.groups": 2},
        consumer="projection",
    ),
    "cait": Case(
        partial(cait.TalkingHeadAttn, DIM, HEADS, True), rows={"qkv": 1, "proj_w": 1}, sets={}, start={"qkv": 2 * DIM}
    ),
    "efficientformer": Case(
        partial(TALKING_CONV, resolution=4), MAP, TALKING, sets={"v_local.conv.groups": 16}, consumer="proj.conv"
    ),
    "efficientformer, stride": Case(
        partial(TALKING_CONV, resolution=4, stride=2),
        MAP,
        TALKING,
        sets={"v_local.conv.groups": 16},
        consumer="proj.conv",
    ),
    "differential": Case(partial(layers.DiffAttention, DIM, HEADS, qk_norm=True), more={"is_causal": True}),
    "differential, dual": Case(partial(layers.DiffAttention, DIM, HEADS, dual_lambda=True)),
    "parallel": Case(
        partial(PARALLEL, qk_norm=True), rows={"in_proj": 3}, sets=SPLIT_IN, start=START_IN, consumer="attn_out_proj"
    ),
    "parallel, fused": Case(
        partial(PARALLEL, qkv_bias=True, fuse_out_proj=True),
        rows={"in_proj": 3},
        more={"attn_mask": biases((16, 16))},
        sets=SPLIT_IN,
        start=START_IN,
        consumer="out_proj",
        behind=40,
    ),
    "parallel, differential": Case(
        DIFF_PARALLEL, rows={"in_proj": 3}, sets=SPLIT_IN, start=START_IN, consumer="out_proj", behind=40
    ),
}

CASES = {name: case for name, case in CASES.items() if there(name)}
FLAGS = [
    (name, fused)
    for name, case in CASES.items()
    for fused in ([False, True] if hasattr(case.build(), "fused_attn") else [False])
]


def stock_of(name: str, fused: bool = False) -> nn.Module:
    """Returns a stock module with no weight, table or statistic left as it was initialised."""
    module = CASES[name].build()
    module.eval()  # EfficientFormer's returns None
    module.fused_attn = fused
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.8 - 0.4)
    return module


def ours_of(stock: nn.Module) -> nn.Module:
    return RESIZABLE[type(stock)](copy.deepcopy(stock))


def kept(size: int, outer: int, start: int = 0, behind: int = 0, heads: Sequence[int] = KEEP) -> Tensor:
    """Returns the kept indices of an axis (outer, heads, inner) with others in front of it and behind it."""
    inner = torch.arange(start, size - behind).view(outer, HEADS, -1)[:, heads].flatten()
    return torch.cat((torch.arange(start), inner, torch.arange(size - behind, size)))


def cut(module: nn.Module, case: Case, heads: Sequence[int] = KEEP) -> nn.Module:
    """Keeps two heads."""
    for path, outer in case.rows.items():
        tensors = dict((*module.named_parameters(), *module.named_buffers()))
        for name, tensor in tensors.items():
            if name == path or (name.startswith(f"{path}.") and tensor.ndim):
                select(module, name, 0, kept(len(tensor), outer, case.start.get(path, 0), heads=heads))
    for path in case.second:
        select(module, path, 1, torch.tensor(heads))
    channels = module.get_submodule(case.consumer).weight.shape[1]
    select(module, f"{case.consumer}.weight", 1, kept(channels, case.repeats, 0, case.behind, heads))
    for path, value in case.sets.items():
        owner, _, name = path.rpartition(".")
        setattr(module.get_submodule(owner), name, tuple(heads) if name == "crpe_heads" else value)
    return module


def select(module: nn.Module, path: str, axis: int, indices: Tensor) -> None:
    owner, _, name = path.rpartition(".")
    layer = module.get_submodule(owner)
    tensor = getattr(layer, name)
    less = tensor.detach().index_select(axis, indices)
    setattr(layer, name, nn.Parameter(less) if isinstance(tensor, nn.Parameter) else less)


def gated(stock: nn.Module, case: Case, x: Tensor) -> Tensor:
    """Returns the output of the stock module when its consumer reads zeros for the heads that are not in KEEP."""
    consumer = stock.get_submodule(case.consumer)
    channels = consumer.weight.shape[1]
    gate = torch.zeros(channels).index_fill(0, kept(channels, case.repeats, 0, case.behind), 1.0)
    gate = gate.view(-1, 1, 1) if isinstance(consumer, nn.Conv2d) else gate
    handle = consumer.register_forward_pre_hook(lambda _module, args: (args[0] * gate,))
    y = stock(x, **case.more)
    handle.remove()
    return y


@pytest.mark.parametrize(("name", "fused"), FLAGS)
def test_all_heads_compute_what_the_stock_module_computes(name, fused):
    case, stock = CASES[name], stock_of(name, fused)
    ours, x = ours_of(stock), torch.randn(case.shape)
    assert set(stock.state_dict()) == set(ours.state_dict()) - {"kept_heads", "kept_channels", "_extra_state"}
    assert isinstance(ours, type(stock)) and not ours.training
    y, expected = ours(x, **case.more), stock(x, **case.more)
    assert_close(y, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())
    direction = torch.randn_like(y)
    y.backward(direction)
    expected.backward(direction)
    gradients = {key: parameter.grad for key, parameter in stock.named_parameters()}
    assert any(gradient is not None and gradient.any() for gradient in gradients.values())
    for key, parameter in ours.named_parameters():
        assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_dropout_in_training(name):
    case, stock = CASES[name], stock_of(name)
    stock.train()
    for module in stock.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    ours, x = ours_of(stock), torch.randn(case.shape)
    assert ours.training
    torch.manual_seed(1)
    expected = stock(x, **case.more)
    torch.manual_seed(1)
    assert_close(ours(x, **case.more), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "fused"), FLAGS)
def test_fewer_heads_compute_what_the_gated_stock_module_computes(name, fused):
    case, stock = CASES[name], stock_of(name, fused)
    ours, x = cut(ours_of(stock), case), torch.randn(case.shape)
    assert sum(p.numel() for p in ours.parameters()) < sum(p.numel() for p in stock.parameters())
    expected = gated(stock, case, x)
    assert not torch.allclose(expected, stock(x, **case.more), rtol=1e-2, atol=1e-2)
    assert_close(ours(x, **case.more), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_the_heads_that_are_left(name):
    case, stock = CASES[name], stock_of(name)
    ours = cut(ours_of(stock), case)
    ours(torch.randn(case.shape), **case.more).square().sum().backward()
    dense = dict(stock.named_parameters())
    gradients = [weight.grad for key, weight in ours.named_parameters() if weight.shape != dense[key].shape]
    assert len(gradients) > 1
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.any() for gradient in gradients if gradient.ndim > 1)


@pytest.mark.parametrize("name", CASES)
def test_the_weights_tell_which_heads_are_left(name):
    case = CASES[name]
    ours, x = cut(ours_of(stock_of(name)), case), torch.randn(case.shape)
    loaded = cut(ours_of(stock_of(name)), case, [0, 1])
    assert not torch.equal(loaded(x, **case.more), ours(x, **case.more))
    loaded.load_state_dict(ours.state_dict())
    assert torch.equal(loaded(x, **case.more), ours(x, **case.more))


@pytest.mark.parametrize("name", {type(case.build()): name for name, case in CASES.items()}.values())
def test_export(name):
    case = CASES[name]
    ours, x = cut(ours_of(stock_of(name)), case), torch.randn(case.shape)
    program = torch.export.export(ours, (x,), case.more).module()
    assert_close(program(x, **case.more), ours(x, **case.more), rtol=1e-5, atol=1e-5)


def test_every_replacement_is_tested():
    broken = set() if there("gcvit, global") else {gcvit.WindowAttentionGlobal}
    assert {type(case.build()) for case in CASES.values()} == set(RESIZABLE) - broken


@pytest.mark.parametrize(
    "name", [name for name in ("beit", "swin v2", "swin v2 cr") if there(f"window size of {name}")]
)
def test_another_window_size_for_fewer_heads(name):
    case, stock = CASES[name], stock_of(name)
    expected = copy.deepcopy(stock)
    expected.set_window_size((2, 2))
    ours = cut(ours_of(stock), case)
    ours.set_window_size((2, 2))
    x = torch.randn(4, 4 + (name == "beit"), DIM)
    assert_close(ours(x), gated(expected, replace(case, more={}), x), rtol=1e-5, atol=1e-5)


def test_cutting_again_picks_among_the_heads_that_are_left():
    ours = ours_of(stock_of("eva, mixed"))
    select(ours, "kept_heads", 0, torch.tensor([0, 1, 3]))
    select(ours, "kept_heads", 0, torch.tensor([1, 2]))
    assert ours.kept_heads.tolist() == KEEP
    assert ours.of_my_heads(ROPE_OF_HEADS).equal(ROPE_OF_HEADS[KEEP])


def test_blocks_of_coat_share_their_convolutions_whichever_heads_they_keep():
    crpe = conv_heads().crpe
    one, two = (coat.FactorAttnConvRelPosEnc(DIM, HEADS, shared_crpe=crpe) for _ in range(2))
    ours = RESIZABLE[type(one)](one)
    assert ours.crpe is two.crpe
    assert [conv.weight.shape[0] for conv in cut(ours, CASES["coat"]).crpe.conv_list] == [6, 12, 6]


def test_a_replacement_takes_over_and_does_not_copy():
    stock = CASES["beit"].build()
    ours = RESIZABLE[type(stock)](stock)
    assert all(mine is theirs for mine, theirs in zip(ours.parameters(), stock.parameters(), strict=True))
    assert ours.window_size == (3, 3) and ours.k_bias is stock.k_bias
    assert "k_bias" not in ours.state_dict()
