"""Attention whose queries and keys are narrower than its values or the other way round, which timm's cannot be."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SlimAttention(nn.Module):
    """Replaces ``timm.layers.Attention`` once query-key or value dimensions were cut.

    The scale of the scores stays that of the dense head: the dimensions that are left keep their meaning.

    Args:
        stock: The attention whose weights are taken over; its ``qkv`` is split into ``qk`` and ``v``.
    """

    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module

    def __init__(self, stock: Any):
        super().__init__()
        self.num_heads, self.scale, self.fused_attn = stock.num_heads, stock.scale, stock.fused_attn
        both = 2 * stock.qkv.out_features // 3
        self.qk = _part_of(stock.qkv, slice(0, both))
        self.v = _part_of(stock.qkv, slice(both, None))
        self.gate = getattr(stock, "gate", None)
        for name in ("q_norm", "k_norm", "norm"):
            setattr(self, name, getattr(stock, name, nn.Identity()))
        self.attn_drop, self.proj, self.proj_drop = stock.attn_drop, stock.proj, stock.proj_drop
        self.train(stock.training)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Returns (batch, tokens, dim), as timm's attention does with the same arguments."""
        if is_causal:
            tokens = x.shape[1]
            attn_mask = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).tril()
        values = self.norm(self._attend(x, attn_mask))
        if self.gate is not None:
            values = values * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(values))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, tokens, _ = x.shape
        q, k = self.qk(x).view(batch, tokens, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        v = self.v(x).view(batch, tokens, self.num_heads, -1).transpose(1, 2)
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            values = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        else:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
            values = self.attn_drop(scores.softmax(-1)) @ v
        return values.transpose(1, 2).reshape(batch, tokens, -1)


class SlimWindowAttention(SlimAttention):
    """Replaces the window attention of timm's Swin once query-key or value dimensions were cut."""

    relative_position_index: Tensor

    def __init__(self, stock: Any):
        super().__init__(stock)
        self.window_size, self.window_area = stock.window_size, stock.window_area
        self.relative_position_bias_table = stock.relative_position_bias_table
        self.register_buffer("relative_position_index", stock.relative_position_index, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Returns (batch x windows, tokens, dim).

        Args:
            x: (batch x windows, tokens, dim).
            mask: (windows, tokens, tokens), added to the scores; None where windows are not shifted.
        """
        area = self.window_area
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(area, area, -1)
        bias = bias.permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            bias = bias + mask.unsqueeze(1).repeat(x.shape[0] // len(mask), 1, 1, 1)
        return super().forward(x, bias)


def _part_of(layer: nn.Linear, rows: slice) -> nn.Linear:
    weight = layer.weight[rows]
    part = nn.Linear(weight.shape[1], len(weight), layer.bias is not None, weight.device, weight.dtype)
    pairs = [(part.weight, layer.weight)] + ([(part.bias, layer.bias)] if layer.bias is not None else [])
    for mine, theirs in pairs:
        mine.data = theirs.detach()[rows].clone()
        mine.requires_grad_(theirs.requires_grad)
    return part
