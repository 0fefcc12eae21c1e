"""Replacements for timm's attention that costs no square of the tokens: between channels, or with convolutions."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from timm.models import coat, davit, edgenext, nextvit, volo, xcit
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.units.modules.base import Resizable, merge_heads


class _CrossCovariance(Resizable):
    """The channels of a head attend to each other; every head has its temperature."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, tokens, dim) for the same."""
        q, k, v = (part.transpose(-2, -1) for part in self.heads(self.qkv(x), 3))
        q, k = F.normalize(q, dim=-1) * self.temperature, F.normalize(k, dim=-1)
        if getattr(self, "fused_attn", False):  # as in timm, without dropout
            x = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        else:
            x = self.attn_drop((q @ k.transpose(-2, -1)).softmax(-1)) @ v
        return self.project(x.transpose(-2, -1))


class XcitAttention(_CrossCovariance, xcit.XCA):
    """Attention between the channels of XCiT."""


class EdgenextAttention(_CrossCovariance, edgenext.CrossCovarianceAttn):
    """Attention between the channels of EdgeNeXt."""


def _between_channels(rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Lets channels gather from the values of channels; all are (batch, heads, tokens, width)."""
    return values @ (rows.transpose(-2, -1) @ columns).softmax(-1).transpose(-2, -1)


class DavitChannelAttention(Resizable, davit.ChannelAttention):
    """Attention between the channels of DaViT."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, tokens, dim) for the same."""
        q, k, v = self.heads(self.qkv(x), 3)
        return self.proj(merge_heads(_between_channels(k * self.scale, v, q)))


class DavitChannelAttentionV2(Resizable, davit.ChannelAttentionV2):
    """Attention between the channels of the DaViT in Florence-2; ``groups`` is the number of its heads."""

    @property
    def num_heads(self) -> int:  # type: ignore[override]
        """The number of heads."""
        return self.groups

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, tokens, dim) for the same."""
        q, k, v = self.heads(self.qkv(x), 3)
        scale = (x.shape[1] if self.dynamic_scale else self.head_dim) ** -0.5
        return self.proj(merge_heads(_between_channels(q * scale, k, v)))


class CoatAttention(Resizable, coat.FactorAttnConvRelPosEnc):
    """Attention of CoaT, with the positional convolutions that all blocks of a stage share.

    They are kept whole and shared; each block runs them for the channels of its own heads alone.

    Args:
        stock: As for :class:`Resizable`. ``crpe_heads`` holds the dense numbers of the heads that are left, ascending;
            they are saved as the module's extra state.
    """

    crpe: Any

    def __init__(self, stock: nn.Module):
        super().__init__(stock)
        self.crpe_heads = tuple(range(self.num_heads))

    def get_extra_state(self) -> Tensor:
        """Returns the dense numbers of the heads."""
        return torch.tensor(self.crpe_heads)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes over the dense numbers of the heads."""
        self.crpe_heads = tuple(state.tolist())

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Returns (batch, 1 + tokens, dim) for x of that shape, of a map of ``size`` behind a class token."""
        q, k, v = self.heads(self.qkv(x), 3)
        content = q @ (k.softmax(2).transpose(-2, -1) @ v)
        return self.project(self.scale * content + self._places(q, v, size))

    def _places(self, q: Tensor, v: Tensor, size: Sequence[int]) -> Tensor:
        width = v.shape[-1]
        maps = v[:, :, 1:].transpose(-2, -1).unflatten(-1, tuple(size))
        parts, done = [], 0
        ends = accumulate(self.crpe.head_splits)
        for conv, split, end in zip(self.crpe.conv_list, self.crpe.head_splits, ends, strict=True):
            mine = [head - end + split for head in self.crpe_heads if end - split <= head < end]
            if mine:
                part = maps[:, done : done + len(mine)].flatten(1, 2)
                parts.append(_depthwise(conv, part, mine, width))
                done += len(mine)
        places = torch.cat(parts, 1).flatten(2).unflatten(1, (-1, width)).transpose(-2, -1)
        return F.pad(q[:, :, 1:] * places, (0, 0, 1, 0))


def _depthwise(conv: Any, x: Tensor, heads: list[int], width: int) -> Tensor:
    """Runs a depthwise convolution for some of its heads alone, whose channels x (batch, channels, ...) holds."""
    weight, bias = (tensor.unflatten(0, (-1, width))[heads].flatten(0, 1) for tensor in (conv.weight, conv.bias))
    return F.conv2d(x, weight, bias, padding=conv.padding, groups=len(weight))


class VoloOutlookAttention(Resizable, volo.OutlookAttention):
    """Attention of VOLO whose weights for the neighbourhood of a token come from the token alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, height, width, dim) for the same."""
        batch, height, width, _ = x.shape
        area, tokens = self.kernel_size**2, math.ceil(height / self.stride) * math.ceil(width / self.stride)
        v = self.unfold(self.v(x).permute(0, 3, 1, 2)).reshape(batch, self.num_heads, -1, area, tokens)
        scores = self.attn(self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        scores = scores.reshape(batch, tokens, self.num_heads, area, area).transpose(1, 2) * self.scale
        x = self.attn_drop(scores.softmax(-1)) @ v.permute(0, 1, 4, 3, 2)
        x = x.permute(0, 1, 4, 3, 2).reshape(batch, -1, tokens)
        x = F.fold(x, (height, width), self.kernel_size, padding=self.padding, stride=self.stride)
        return self.proj_drop(self.proj(x.permute(0, 2, 3, 1)))


class NextvitConvAttention(Resizable, nextvit.ConvAttention):
    """Grouped convolution of Next-ViT, each group a head that reads its own channels of the stream.

    Args:
        stock: As for :class:`Resizable`. The buffer ``kept_channels`` holds the channels that are read; it is cut like
            any other tensor, and saved.
    """

    kept_channels: Tensor

    def __init__(self, stock: nn.Module):
        super().__init__(stock)
        weight = self.group_conv3x3.weight
        self.register_buffer("kept_channels", torch.arange(len(weight), device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, dim, height, width) for the same."""
        return super().forward(x.index_select(1, self.kept_channels))
