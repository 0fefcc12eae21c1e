"""Replacements for timm's attention of tokens to tokens by nothing but queries and keys."""

from collections.abc import Sequence
from typing import Any

from timm.layers import AttentionPoolLatent
from timm.models import cait, convit, crossvit, davit, fastvit, metaformer, nest, nextvit, pvt_v2, twins, volo
from torch import Tensor
from torch.nn import functional as F

from xpruner.units.modules.base import Resizable, merge_heads, split_heads


class _Packed(Resizable):
    """Queries, keys and values stacked in one layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., tokens, dim) for x (..., tokens, dim)."""
        q, k, v = self.heads(self.qkv(x), 3)
        return self.project(self.attend(q, k, v))


class MetaformerAttention(_Packed, metaformer.Attention):
    """Attention of the CAFormers."""


class ConvitMHSA(_Packed, convit.MHSA):
    """Attention of ConViT's last blocks."""


class VoloAttention(_Packed, volo.Attention):
    """Attention of VOLO's transformer blocks."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, height, width, dim) for the same."""
        return super().forward(x.flatten(1, 2)).view(x.shape)


class FastvitAttention(_Packed, fastvit.Attention):
    """Attention of FastViT's last stage."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, dim, height, width) for the same."""
        return super().forward(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class NestAttention(Resizable, nest.Attention):
    """Attention within NesT's blocks of tokens; the channels that ``proj`` reads are (width, heads)."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, blocks, tokens, dim) for the same."""
        q, k, v = (part.transpose(1, 2) for part in self.heads(self.qkv(x), 3))
        return self.proj_drop(self.proj(self.attend(q, k, v).movedim(1, -1).flatten(-2)))


class DavitWindowAttention(_Packed, davit.WindowAttention):
    """Attention within DaViT's windows."""

    def project(self, x: Tensor) -> Tensor:
        """Returns the output for x (batch x windows, heads, tokens, width)."""
        return self.proj(merge_heads(x))


class TwinsLocalAttention(Resizable, twins.LocallyGroupedAttn):
    """Attention within Twins' windows."""

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Returns (batch, tokens, dim) for x (batch, tokens, dim) of a map of ``size``."""
        (height, width), side = size, self.ws
        x = F.pad(x.unflatten(1, (height, width)), (0, 0, 0, -width % side, 0, -height % side))
        windows = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        down, across = windows.shape[1:3]
        q, k, v = self.heads(self.qkv(windows.flatten(3, 4).flatten(1, 2)), 3)
        x = merge_heads(self.attend(q, k, v)).unflatten(2, (side, side)).unflatten(1, (down, across)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(1, 2)[:, :height, :width].flatten(1, 2)
        return self.proj_drop(self.proj(x))


class _Subsampled(Resizable):
    """Keys and values from a smaller map than the queries."""

    def attend_to_less(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Returns (batch, tokens, dim) for x (batch, tokens, dim) of a map of ``size``."""
        q = split_heads(self.q(x), self.num_heads)
        if self.sr is not None:
            x = self.subsample(x.transpose(1, 2).unflatten(2, tuple(size)))
        k, v = self.heads(self.kv(x), 2)
        return self.project(self.attend(q, k, v))

    def subsample(self, x: Tensor) -> Tensor:
        """Returns (batch, fewer tokens, dim) for a map (batch, dim, height, width)."""
        return self.norm(self.sr(x).flatten(2).transpose(1, 2))


class TwinsGlobalAttention(_Subsampled, twins.GlobalSubSampleAttn):
    """Attention of all tokens of Twins to a smaller map."""

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Returns (batch, tokens, dim) for x (batch, tokens, dim) of a map of ``size``."""
        return self.attend_to_less(x, size)


class PvtAttention(_Subsampled, pvt_v2.Attention):
    """Attention of the Pyramid Vision Transformer, the one with linear complexity included."""

    act: Any

    def forward(self, x: Tensor, feat_size: Sequence[int]) -> Tensor:
        """Returns (batch, tokens, dim) for x (batch, tokens, dim) of a map of ``feat_size``."""
        return self.attend_to_less(x, feat_size)

    def subsample(self, x: Tensor) -> Tensor:
        """Returns (batch, fewer tokens, dim) for a map (batch, dim, height, width)."""
        if self.pool is None:
            return super().subsample(x)
        return self.act(super().subsample(self.pool(x)))


class NextvitAttention(Resizable, nextvit.EfficientAttention):
    """Attention of Next-ViT to averages of the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, tokens, dim) for the same."""
        context = x if self.sr is None else self.norm(self.sr(x.transpose(1, 2))).transpose(1, 2)
        q, k, v = (split_heads(part, self.num_heads) for part in (self.q(x), self.k(context), self.v(context)))
        return self.project(self.attend(q, k, v))


class CrossvitAttention(Resizable, crossvit.CrossAttention):
    """Attention of CrossViT's class token to the tokens of the other branch."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, 1, dim) for x (batch, tokens, dim) with the class token in front."""
        q, k, v = (split_heads(part, self.num_heads) for part in (self.wq(x[:, :1]), self.wk(x), self.wv(x)))
        return self.project(self.attend(q, k, v))


class CaitClassAttention(Resizable, cait.ClassAttn):
    """Attention of the class token in CaiT's and XCiT's last blocks."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, 1, dim) for x (batch, tokens, dim) with the class token in front."""
        q, k, v = (split_heads(part, self.num_heads) for part in (self.q(x[:, :1]), self.k(x), self.v(x)))
        return self.project(self.attend(q, k, v))


class LatentPool(Resizable, AttentionPoolLatent):
    """Pooling by the attention of learned queries to all tokens."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Returns (batch, dim) for x (batch, tokens, dim); (batch, queries, dim) where queries are not pooled."""
        if self.pos_embed is not None:
            x = x + self.pos_embed.unsqueeze(0).to(x.dtype)
        q = split_heads(self.q(self.latent.expand(x.shape[0], -1, -1)), self.num_heads)
        k, v = self.heads(self.kv(x), 2)
        x = self.project(self.attend(self.q_norm(q), self.k_norm(k), v, attn_mask))
        if self.mlp is not None:
            x = x + self.mlp(self.norm(x))
        if self.pool == "token":
            return x[:, 0]
        return x.mean(1) if self.pool == "avg" else x
