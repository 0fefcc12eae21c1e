"""Adapters for the heads of attention in timm's networks of convolutions, and for what comes near to a head there."""

from collections.abc import Callable, Mapping
from typing import Any

from timm import layers
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.halo_attn import HaloAttn
from timm.layers.lambda_layer import LambdaLayer
from timm.layers.non_local_attn import BatNonLocalAttn, NonLocalAttn
from timm.models import (
    byobnet,
    efficientformer,
    efficientformer_v2,
    fastvit,
    levit,
    maxxvit,
    nextvit,
    tiny_vit,
    visformer,
)
from torch import nn

from xpruner.units.adapter import CostShare
from xpruner.units.adapters.timm.heads import Heads, RelativeHeads, TokenHeads, with_replacements
from xpruner.units.adapters.timm.vit import is_identity
from xpruner.units.base import Gate
from xpruner.units.registry import leave_whole, register_adapter
from xpruner.units.slices import Slice, columns, params_of, rows


@register_adapter(visformer.Attention)
class VisformerHeads(TokenHeads):
    """Heads of Visformer, whose layers are convolutions."""


@register_adapter(*with_replacements(fastvit.Attention))
class FastVitHeads(Heads):
    """Heads of FastViT."""


@register_adapter(maxxvit.Attention2d, maxxvit.AttentionCl)
class MaxxVitHeads(RelativeHeads):
    """Heads of MaxViT and CoAtNet; queries, keys and values may lie head by head."""

    def producers(self, module: Any) -> Mapping[str, int]:
        return {"qkv": 1 if module.head_first else 3}


class BiasedHeads(Heads):
    """Heads with biases on their scores that are kept ready in eval mode; a head's queries, keys and values adjoin."""

    scaled = ("key_attn_dim", "val_attn_dim", "out_dim", "dh")

    def producers(self, module: Any) -> Mapping[str, int]:
        return {"qkv": 1, "kv": 1, "q.ln": 1, "q.proj": 1, "k": 1, "v": 1, "v_local": 1, "attention_biases": 1}

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        return super().attributes(module, count) | {"attention_bias_cache": {}}


@register_adapter(efficientformer.Attention, tiny_vit.Attention)
class BiasedTokenHeads(BiasedHeads, TokenHeads):
    """Heads of EfficientFormer and TinyViT."""


@register_adapter(levit.Attention, levit.AttentionDownsample)
class LevitHeads(BiasedHeads):
    """Heads of LeViT, with a norm behind the layer that reads them."""

    consumer = "proj.ln.linear"


@register_adapter(efficientformer_v2.Attention2dDownsample)
class DownsamplingHeads(BiasedHeads):
    """Heads of EfficientFormer V2 where it halves the map."""

    consumer = "proj.conv"
    apart = ("q.local",)


@register_adapter(*with_replacements(nextvit.ConvAttention))
class GroupedConvHeads(Heads):
    """Groups of Next-ViT's convolution, each a head that reads its own channels of the stream."""

    consumer = "projection"
    number = "group_conv3x3.groups"
    scaled = ("group_conv3x3.in_channels",)

    def producers(self, module: Any) -> Mapping[str, int]:
        return {"group_conv3x3": 1, "norm": 1, "kept_channels": 1}


@register_adapter("timm.models.lowformer.ConvAttention", "timm.models.cpubone.ConvAttention")
class UpsampledHeads(Heads):
    """Heads of LowFormer and CPUBone on a smaller map; their consumer may be the very layer that enlarges it."""

    scaled = ("o_proj_inpdim",)

    def producers(self, module: Any) -> Mapping[str, int]:
        return {"pwise": 1}

    def gates(self, module: Any) -> tuple[Gate, ...]:
        return (Gate(self._reading(module), inner=module.head_dim),)

    def slices(self, module: Any) -> list[Slice]:
        path = self._reading(module)
        transposed = isinstance(module.get_submodule(path), nn.ConvTranspose2d)
        return [*rows(module, "pwise"), Slice(f"{path}.weight", 0 if transposed else 1)]

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        enlarging = macs("upsampling") if self._reading(module) == "o_proj" else 0
        own = macs("") - macs("conv_proj") - enlarging
        return [CostShare(own, params_of(module, self.slices(module)), ("head",))]

    def _reading(self, module: Any) -> str:
        """Returns the path of the layer that consumes the heads."""
        return next(name for name in ("o_proj", "upsampling", "upsampling.0") if _is_layer(module.get_submodule(name)))


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d)


@register_adapter(layers.MultiQueryAttention2d)
class MultiQueryHeads(Heads):
    """Heads of MobileNet V4 and V5, which all share their keys and values."""

    consumer = "output.proj"
    apart = ("key", "value")

    def producers(self, module: Any) -> Mapping[str, int]:
        return {"query.proj": 1}


@register_adapter(layers.AttentionPool2d)
class PoolHeads(Heads):
    """Heads that pool a map; their consumer is the classifier itself."""

    def holds(self, module: Any) -> bool:
        return not is_identity(module.proj)


@register_adapter(byobnet.SelfAttnBlock)
class BottleneckHeads(Heads):
    """Heads of the attention between two convolutions, the second of which reads them."""

    consumer = "conv3_1x1.conv"
    number = "self_attn.num_heads"
    scaled = ("self_attn.dim_out_qk", "self_attn.dim_out_v")
    apart = ("shortcut", "conv1_1x1", "conv2_kxk")

    def holds(self, module: Any) -> bool:
        return isinstance(module.self_attn, BottleneckAttn | HaloAttn)

    def slices(self, module: Any) -> list[Slice]:
        attention = module.self_attn
        queries_and_keys = 2 * attention.dim_out_qk
        return [
            *rows(module, "self_attn.qkv", 1, queries_and_keys),  # first: its start counts the dense rows in front
            *rows(module, "self_attn.qkv", 2, 0, queries_and_keys),
            *rows(module, "self_attn.q"),
            *rows(module, "self_attn.kv"),
            *rows(module, "post_attn"),
            columns(self.consumer),
        ]


leave_whole(BottleneckAttn, HaloAttn, why="its heads are those of the block that it is in")
leave_whole(LambdaLayer, why="its output must have as many channels as its input")
leave_whole(BatNonLocalAttn, NonLocalAttn, why="it has no heads, and its output depends on all channels")
