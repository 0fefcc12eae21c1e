"""A replacement for PVTv2's attention, which shapes its output as wide as the residual stream."""

from typing import Any

from torch import Tensor

from xpruner.units.modules.base import Resizable, split_heads


class PvtV2Attention(Resizable):
    """Attention of PVTv2, the one with linear complexity included; it may hold fewer heads than the stream is wide."""

    num_attention_heads: int

    def forward(
        self, hidden_states: Tensor, height: int, width: int, output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        """Returns (batch, tokens, dim) for the same, and the attention (batch, heads, tokens, keys) where asked for.

        Args:
            hidden_states: (batch, tokens, dim) of a map.
            height: Of the map.
            width: Of the map.
            output_attentions: Whether to return the attention as well.
        """
        module: Any = self
        context = hidden_states
        if self.linear_attention or self.spatial_reduction_ratio > 1:
            context = self._reduced(hidden_states.transpose(1, 2).unflatten(2, (height, width)))
        heads = self.num_attention_heads
        q = split_heads(module.query(hidden_states), heads)
        k, v = (split_heads(layer(context), heads) for layer in (module.key, module.value))
        scores = q @ k.transpose(-2, -1) / self.attention_head_size**0.5
        attention = self.attn_drop(scores.softmax(-1))
        output = self.project(attention @ v)
        return (output, attention) if output_attentions else (output,)

    def _reduced(self, x: Tensor) -> Tensor:
        """Returns (batch, fewer tokens, dim) for a map (batch, dim, height, width)."""
        x = self.spatial_reduction(self.pool(x) if self.linear_attention else x)
        x = self.layer_norm(x.flatten(2).transpose(1, 2))
        return self.act(x) if self.linear_attention else x
