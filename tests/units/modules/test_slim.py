"""With all its dimensions, slim attention computes what timm's does; with fewer, what is left of it by hand."""

import pytest
import torch
from timm.layers import Attention
from timm.models.swin_transformer import WindowAttention
from torch import nn
from torch.testing import assert_close

from xpruner.units.adapters.timm.vit import QueryKeyAdapter, ValueAdapter
from xpruner.units.modules.slim import SlimAttention, SlimWindowAttention

X = torch.randn(4, 9, 24, generator=torch.Generator().manual_seed(0))
LOWER = torch.ones(9, 9, dtype=torch.bool).tril()
CASES = [
    ({}, {}),
    ({}, {"attn_mask": LOWER}),
    ({}, {"attn_mask": torch.linspace(-2, 2, 81).view(9, 9)}),
    ({}, {"is_causal": True}),
    ({"gated": True, "qkv_bias": True}, {}),
    ({"qk_norm": True, "scale_norm": True, "norm_layer": nn.LayerNorm}, {}),
]


def stirred(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return module.eval()


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize(("made", "given"), CASES, ids=str)
def test_all_dimensions_compute_what_timm_computes(made, given, fused):
    stock = stirred(Attention(24, 3, **made))
    stock.fused_attn = fused
    slim = SlimAttention(stock)
    assert not slim.training
    assert_close(slim(X, **given), stock(X, **given), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [None, torch.randn(2, 9, 9)], ids=["whole", "shifted"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_all_dimensions_compute_what_swin_computes(fused, mask):
    stock = stirred(WindowAttention(24, 3, window_size=3))
    stock.fused_attn = fused
    assert_close(SlimWindowAttention(stock)(X, mask), stock(X, mask), rtol=1e-5, atol=1e-6)


def test_fewer_dimensions_by_hand():
    """One head, one query-key dimension, one value dimension: softmax of the products, at the dense head's scale."""
    stock = stirred(Attention(4, 1, proj_bias=False))
    column = stock.proj.weight[:, 1].detach().clone()  # the slim one takes the layer over
    slim = SlimAttention(stock)
    QueryKeyAdapter().cut(slim, torch.tensor([2]))
    ValueAdapter().cut(slim, torch.tensor([1]))
    x = torch.randn(1, 5, 4)
    q, k, v = x @ stock.qkv.weight[2], x @ stock.qkv.weight[4 + 2], x @ stock.qkv.weight[8 + 1]
    scores = (q[0, :, None] * k[0, None, :] / 2).softmax(-1)  # a width of four: a scale of one half
    assert_close(slim(x), (scores @ v[0])[None, :, None] * column, rtol=1e-5, atol=1e-6)


def test_what_was_frozen_stays_frozen():
    stock = Attention(24, 3, qkv_bias=True).requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in SlimAttention(stock).parameters())


@pytest.mark.parametrize(("stock", "slim"), [
    (lambda: Attention(24, 3), SlimAttention), (lambda: WindowAttention(24, 3, window_size=3), SlimWindowAttention)
])  # fmt: skip
def test_unequal_widths_can_be_exported(stock, slim):
    narrow = slim(stirred(stock()))
    QueryKeyAdapter().cut(narrow, torch.tensor([0, 3, 5]))
    ValueAdapter().cut(narrow, torch.tensor([1, 2, 4, 6]))
    exported = torch.export.export(narrow, (X,)).module()
    assert_close(exported(X), narrow(X), rtol=1e-5, atol=1e-6)
