"""A vision transformer whose attention costs as much for each token, however many there are."""

from typing import Any

from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F


class LinearAttention(nn.Module):
    """Attention whose scores are products of positive features, so that keys meet values first.

    Args:
        dim: Of the tokens.
        num_heads: Each of dim / num_heads dimensions.
        **_: What timm gives to attention of other kinds.
    """

    def __init__(self, dim: int, num_heads: int = 8, **_: Any):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        """Returns (batch, tokens, dim) for the same."""
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in layers)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        total = q @ k.sum(-2, keepdim=True).transpose(-2, -1)
        return self.proj((q @ (k.transpose(-2, -1) @ v) / total).transpose(1, 2).flatten(2))


@register_model
def linear_vit_tiny(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """A tiny ViT with linear attention, known to timm by this name."""
    sizes = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3, "attn_layer": LinearAttention}
    return build_model_with_cfg(VisionTransformer, "linear_vit_tiny", pretrained, **{**sizes, **kwargs})
