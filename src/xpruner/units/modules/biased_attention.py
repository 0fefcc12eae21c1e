"""Replacements for timm's attention with positions: biases on the scores, rotations, gates on a positional map."""

import math
from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models import beit, convit, eva, gcvit, swin_transformer_v2, swin_transformer_v2_cr, vision_transformer_relpos
from torch import Tensor
from torch.nn import functional as F

from xpruner.units.modules.base import Resizable, Selecting, split_heads


class _ThreeBiases(Resizable):
    """Queries, keys and values in one layer whose biases lie beside it; those of the keys are zero."""

    def packed(self, x: Tensor) -> Tensor:
        """Returns queries, keys and values side by side, (..., tokens, 3 x heads x width)."""
        if self.q_bias is None:
            return self.qkv(x)
        bias = torch.cat((self.q_bias, self.k_bias, self.v_bias))
        return self.qkv(x) + bias if self.qkv_bias_separate else F.linear(x, self.qkv.weight, bias)


class BeitAttention(_ThreeBiases, Selecting, beit.Attention):
    """Attention of BEiT with a table of biases of its own, one for all blocks, or none."""

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """Returns (batch, tokens, dim) for x of that shape; the shared bias is (dense heads, tokens, tokens)."""
        bias = None if self.relative_position_bias_table is None else self._get_rel_pos_bias()
        if shared_rel_pos_bias is not None:
            shared = self.of_kept_heads(shared_rel_pos_bias)
            bias = shared if bias is None else bias + shared
        q, k, v = self.heads(self.packed(x), 3)
        return self.project(self.attend(q, k, v, bias))


class RelPosAttention(Selecting, vision_transformer_relpos.RelPosAttention):
    """Attention with a relative position bias of its own, one for all blocks, or none."""

    rel_pos: Any

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        """Returns (batch, tokens, dim) for x of that shape; the shared bias is (1, dense heads, tokens, tokens)."""
        q, k, v = self.heads(self.qkv(x), 3)
        bias = None
        if self.rel_pos is not None:
            bias = self.rel_pos.get_bias()
        elif shared_rel_pos is not None:
            bias = self.of_kept_heads(shared_rel_pos)
        return self.project(self.attend(self.q_norm(q), self.k_norm(k), v, bias))


class GcvitAttention(Selecting, gcvit.WindowAttentionGlobal):
    """Attention within GC ViT's windows, with queries of its own or those of the whole image."""

    def forward(self, x: Tensor, q_global: Tensor | None = None) -> Tensor:
        """Returns (batch x windows, tokens, dim) for x of that shape; q_global is (batch, height, width, dim)."""
        if self.use_global and q_global is not None:
            k, v = self.heads(self.qkv(x), 2)
            q = self.of_kept_heads(split_heads(q_global.flatten(1, -2), q_global.shape[-1] // self.head_dim))
            q = q.repeat_interleave(x.shape[0] // q.shape[0], 0)
        else:
            q, k, v = self.heads(self.qkv(x), 3)
        return self.project(self.attend(q, k, v, self.rel_pos.get_bias()))


class _Cosine(Resizable):
    """Scores by the angle between query and key, with one temperature for each head, within windows."""

    def attend_by_angle(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """Returns (batch x windows, heads, tokens, width); the mask is (windows, tokens, tokens)."""
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * self.logit_scale.view(-1, 1, 1).clamp(max=math.log(100)).exp() + bias
        if mask is not None:
            scores = (scores.unflatten(0, (-1, len(mask))) + mask.unsqueeze(1)).flatten(0, 1)
        return self.attn_drop(scores.softmax(-1)) @ v


class SwinV2Attention(_ThreeBiases, _Cosine, swin_transformer_v2.WindowAttention):
    """Attention within Swin V2's windows."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns (batch x windows, tokens, dim) for x of that shape; the mask is (windows, tokens, tokens)."""
        table = self.cpb_mlp(self.relative_coords_table).flatten(0, -2)
        bias = 16 * table[self.relative_position_index].permute(2, 0, 1).sigmoid()
        q, k, v = self.heads(self.packed(x), 3)
        return self.project(self.attend_by_angle(q, k, v, bias, mask))


class SwinV2CrAttention(_Cosine, swin_transformer_v2_cr.WindowMultiHeadAttention):
    """Attention within the windows of timm's other Swin V2."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns (batch x windows, tokens, dim) for x of that shape; the mask is (windows, tokens, tokens)."""
        bias = self._relative_positional_encodings()
        q, k, v = self.heads(self.qkv(x), 3)
        return self.project(self.attend_by_angle(q, k, v, bias, mask))


class _Rotated(Selecting):
    """Queries and keys rotated by their position, by angles that all heads share or of every head."""

    def of_my_heads(self, rope: Tensor | None) -> Tensor | None:
        """Returns of rope (tokens, any), (batch, 1, tokens, any) or (..., dense heads, tokens, any) what is needed."""
        if rope is None or rope.ndim < 3 or rope.shape[-3] == 1:
            return rope
        return self.of_kept_heads(rope)


class RopeAttention(_Rotated, AttentionRope):
    """timm's attention with rotations, for models whose every head has angles of its own."""

    def forward(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Returns (batch, tokens, dim) for x of that shape."""
        return super().forward(x, self.of_my_heads(rope), attn_mask, is_causal)


class EvaAttention(_ThreeBiases, _Rotated, eva.EvaAttention):
    """Attention of EVA."""

    def forward(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Returns (batch, tokens, dim) for x of that shape."""
        parts = (
            self.packed(x).chunk(3, -1) if self.qkv is not None else (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        q, k = self.q_norm(q), self.k_norm(k)
        angles = self.of_my_heads(rope)
        if angles is not None:
            q, k = (self._rotate(part, angles).type_as(v) for part in (q, k))
        return self._close(x, self.attend(q, k, v, attn_mask, is_causal))

    def _rotate(self, x: Tensor, angles: Tensor) -> Tensor:
        prefix, tokens = x.tensor_split([self.num_prefix_tokens], dim=2)
        return torch.cat((prefix, apply_rot_embed_cat(tokens, angles, half=self.rotate_half)), 2)

    def _close(self, x: Tensor, values: Tensor) -> Tensor:
        values = self.norm(values.transpose(1, 2).flatten(2))
        if self.gate is not None:
            values = values * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(values))


class ConvitGPSA(Resizable, convit.GPSA):
    """Attention of ConViT that mixes what the tokens hold with where they lie."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, tokens, dim) for x of that shape."""
        return self.project(self.get_attention(x) @ split_heads(self.v(x), self.num_heads))

    def get_attention(self, x: Tensor) -> Tensor:
        """Returns the (batch, heads, tokens, tokens) attention of x (batch, tokens, dim)."""
        q, k = self.heads(self.qk(x), 2)
        content = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1)
        place = self.pos_proj(self._offsets(x.shape[1])).permute(0, 3, 1, 2).softmax(-1)
        share = self.gating_param.view(-1, 1, 1).sigmoid()
        scores = (1 - share) * content + share * place
        return self.attn_drop(scores / scores.sum(-1, keepdim=True))

    def _offsets(self, tokens: int) -> Tensor:
        if self.rel_indices.shape[1] == tokens:
            return self.rel_indices
        offsets = self.get_rel_indices(tokens)
        if not torch.compiler.is_compiling():  # an exported program cannot put a larger buffer in place of one it has
            self.rel_indices = offsets
        return offsets
