"""Replacements for timm's attention whose maps are mixed: talking heads, differences of two maps, and whole blocks."""

from typing import Any

import torch
from timm.layers import DiffAttention as TimmDiffAttention
from timm.models import cait, efficientformer_v2, vision_transformer
from torch import Tensor, nn

from xpruner.units.modules.base import Resizable, merge_heads, split_heads


class CaitTalkingHeads(Resizable, cait.TalkingHeadAttn):
    """Attention of CaiT, where every map mixes those of all heads: the values of a head can be pruned, its map cannot.

    Args:
        stock: As for :class:`Resizable`. A value head is its rows of the values in ``qkv``, its row of ``proj_w`` and
            its columns of ``proj``.
    """

    def __init__(self, stock: nn.Module):
        super().__init__(stock)
        self.head_dim = self.proj.in_features // self.num_heads

    @property
    def num_value_heads(self) -> int:
        """How many heads have values."""
        return len(self.proj_w.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, tokens, dim) for the same."""
        dense, own = (heads * self.head_dim for heads in (self.num_heads, self.num_value_heads))
        parts = self.qkv(x).split([dense, dense, own], -1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        scores = self.proj_l(((q * self.scale) @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).softmax(-2)
        maps = self.proj_w(scores).permute(0, 3, 1, 2)
        return self.project(self.attn_drop(maps) @ v)


class EfficientFormerTalkingHeads(Resizable, efficientformer_v2.Attention2d):
    """Attention of EfficientFormer V2, where the values of a head can be pruned and its map cannot, as in CaiT.

    A value head is its rows of ``v`` and ``v_local``, its row of ``talking_head2`` and its columns of ``proj``.
    """

    @property
    def num_value_heads(self) -> int:
        """How many heads have values."""
        return len(self.talking_head2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, dim, height, width) for the same."""
        x = x if self.stride_conv is None else self.stride_conv(x)
        v = self.v(x)
        q, k = (layer(x).flatten(2).unflatten(1, (self.num_heads, -1)) for layer in (self.q, self.k))
        scores = (q.transpose(2, 3) @ k) * self.scale + self.attention_biases[:, self.attention_bias_idxs]
        maps = self.talking_head2(self.talking_head1(scores).softmax(-1))
        values = v.flatten(2).unflatten(1, (self.num_value_heads, -1)) @ maps.transpose(2, 3)
        x = values.reshape(v.shape) + self.v_local(v)
        x = x if self.upsample is None else self.upsample(x)
        return self.proj(self.act(x))


class _Differential(Resizable):
    """Every head has two maps, and the second is taken off the first."""

    def differ(self, parts: Any, mask: Tensor | None, causal: bool) -> Tensor:
        """Returns (batch, tokens, heads x width) for queries, keys and values (batch, tokens, heads x width)."""
        q, k, v = parts
        q, k = (norm(split_heads(part, 2 * self.num_heads)) for norm, part in ((self.q_norm, q), (self.k_norm, k)))
        v = split_heads(v, self.num_heads).repeat_interleave(2, 1)
        first, second = self.attend(q, k, v, mask, causal).unflatten(1, (-1, 2)).unbind(2)
        values = self.sub_norm(first - self._compute_lambda().type_as(q) * second)
        return merge_heads(values * (1 - self.lambda_init))


class DiffAttention(_Differential, TimmDiffAttention):
    """timm's differential attention."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Returns (batch, tokens, dim) for the same."""
        values = self.differ(self.qkv(x).chunk(3, -1), attn_mask, is_causal)
        return self.proj_drop(self.proj(self.norm(values)))


class _Parallel(Resizable):
    """A block whose attention and MLP stand side by side and share their first layer, and maybe their last.

    ``in_split`` is how that layer's output divides into hidden units, queries, keys and values.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Returns the stream (batch, tokens, dim) behind the block."""
        hidden, *parts = self.in_proj(self.in_norm(x)).split(self.in_split, -1)
        if self.mlp_bias is not None:
            hidden = hidden + self.mlp_bias
        values = self.values(parts, attn_mask, is_causal)
        hidden = self.mlp_drop(self.mlp_act(hidden))
        if self.out_proj is not None:
            y = self.out_proj(torch.cat((values, hidden), -1))
        else:
            y = self.attn_out_proj(values) + self.mlp_out_proj(hidden)
        return x + self.drop_path(self.ls(y))

    def values(self, parts: Any, mask: Tensor | None, causal: bool) -> Tensor:
        """Returns what the heads put out, (batch, tokens, heads x width)."""
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        return merge_heads(self.attend(self.q_norm(q), self.k_norm(k), v, mask, causal))


class ParallelScalingBlock(_Parallel, vision_transformer.ParallelScalingBlock):
    """timm's parallel block."""


class DiffParallelScalingBlock(_Differential, _Parallel, vision_transformer.DiffParallelScalingBlock):
    """timm's parallel block with differential attention."""

    def values(self, parts: Any, mask: Tensor | None, causal: bool) -> Tensor:
        """Returns what the heads put out, (batch, tokens, heads x width)."""
        return self.differ(parts, mask, causal)
