"""Adapters for the heads of timm's attention among tokens, family by family where they differ."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from packaging.version import Version
from timm import layers
from timm.models import (
    beit,
    cait,
    coat,
    convit,
    crossvit,
    davit,
    edgenext,
    efficientvit_msra,
    eva,
    gcvit,
    hiera,
    hieradet_sam2,
    metaformer,
    mvitv2,
    nest,
    nextvit,
    pvt_v2,
    swiftformer,
    swin_transformer_v2,
    swin_transformer_v2_cr,
    tnt,
    twins,
    vision_transformer_relpos,
    vision_transformer_sam,
    volo,
    xcit,
)
from timm.models.csatv2 import SpatialAttention

from xpruner.units.adapters.timm.heads import PRODUCERS, Heads, RelativeHeads, TokenHeads, with_replacements
from xpruner.units.adapters.timm.vit import NORM_SPANS_HEADS, is_identity
from xpruner.units.base import Gate
from xpruner.units.registry import leave_whole, register_adapter
from xpruner.units.slices import Slice


@register_adapter(
    *with_replacements(
        convit.MHSA,
        davit.ChannelAttention,
        davit.WindowAttention,
        edgenext.CrossCovarianceAttn,
        nextvit.EfficientAttention,
        tnt.Attention,
        twins.LocallyGroupedAttn,
        vision_transformer_sam.Attention,
        volo.Attention,
        xcit.XCA,
    )
)
class PlainHeads(TokenHeads):
    """Heads of attention with nothing but the usual layers."""

    scaled = ("hidden_dim",)


@register_adapter(*with_replacements(metaformer.Attention))
class MetaFormerHeads(TokenHeads):
    """Heads of the CAFormers."""

    scaled = ("attention_dim",)


@register_adapter(*with_replacements(davit.ChannelAttentionV2))
class ChannelHeads(TokenHeads):
    """Heads of the DaViT in Florence-2, which calls them groups."""

    number = "groups"


@register_adapter(*with_replacements(twins.GlobalSubSampleAttn, pvt_v2.Attention))
class SubsampledHeads(Heads):
    """Heads that attend to a smaller map, which is kept whole."""

    apart = ("sr",)


@register_adapter(*with_replacements(volo.OutlookAttention))
class OutlookHeads(TokenHeads):
    """Heads of VOLO whose weights for the neighbourhood of a token come from the token alone."""

    def producers(self, module: Any) -> Mapping[str, int]:
        return {"v": 1, "attn": 1}


@register_adapter(*with_replacements(cait.ClassAttn, volo.ClassAttention))
class ClassHeads(Heads):
    """Heads of the class token."""


@register_adapter(*with_replacements(crossvit.CrossAttention))
class CrossHeads(Heads):
    """Heads of CrossViT's class token, which attends to the tokens of the other branch."""

    def producers(self, module: Any) -> Mapping[str, int]:
        return {"wq": 1, "wk": 1, "wv": 1}


@register_adapter(*with_replacements(convit.GPSA))
class GatedPositionalHeads(TokenHeads):
    """Heads of ConViT with a map of positions and a gate each."""

    def producers(self, module: Any) -> Mapping[str, int]:
        return {**PRODUCERS, "pos_proj": 1, "gating_param": 1}


@register_adapter(*with_replacements(coat.FactorAttnConvRelPosEnc))
class CoatHeads(TokenHeads):
    """Heads of CoaT, whose convolutions for positions are shared by the blocks of a stage and kept whole.

    Their kernels differ from head to head; every head is charged the mean, which is off by well below 1 % of the model.
    """

    def cut(self, module: Any, keep: torch.Tensor) -> None:
        super().cut(module, keep)
        module.crpe_heads = tuple(module.crpe_heads[i] for i in keep.tolist())


@register_adapter(*with_replacements(nest.Attention))
class NestHeads(TokenHeads):
    """Heads of NesT, whose consumer reads (width, heads) and not (heads, width)."""

    def gates(self, module: Any) -> tuple[Gate, ...]:
        return (Gate("proj", outer=module.proj.in_features // module.num_heads),)


@register_adapter(hiera.MaskUnitAttention)
class MaskUnitHeads(Heads):
    """Heads of Hiera, which may pool their queries."""

    number = "heads"
    scaled = ("dim_out",)


@register_adapter(hieradet_sam2.MultiScaleAttention, mvitv2.MultiScaleAttention)
class MultiScaleHeads(Heads):
    """Heads of SAM 2's Hiera and of MViTv2, which pool queries, keys and values."""

    scaled = ("dim_out",)

    def refuse(self, module: Any) -> str | None:
        return NORM_SPANS_HEADS if getattr(module, "unshared", False) else None


@register_adapter(*with_replacements(swin_transformer_v2.WindowAttention))
class SwinV2Heads(Heads):
    """Heads of Swin V2, each with an output of the little MLP that makes biases of distances."""

    apart = ("cpb_mlp.0",)

    def producers(self, module: Any) -> Mapping[str, int]:
        return {**PRODUCERS, "cpb_mlp.2": 1}


@register_adapter(*with_replacements(swin_transformer_v2_cr.WindowMultiHeadAttention))
class SwinV2CrHeads(Heads):
    """Heads of timm's other Swin V2; the hidden units of its little MLP are left whole."""

    owns = ("meta_mlp",)
    apart = ("meta_mlp.fc1",)

    def producers(self, module: Any) -> Mapping[str, int]:
        return {**PRODUCERS, "meta_mlp.fc2": 1}


@register_adapter(*with_replacements(beit.Attention))
class BeitHeads(TokenHeads):
    """Heads of BEiT, each with a column in the table of biases by relative position."""

    tables = ("relative_position_bias_table",)


@register_adapter(*with_replacements(vision_transformer_relpos.RelPosAttention))
class RelPosHeads(RelativeHeads):
    """Heads of the vision transformers with relative positions."""


@register_adapter(*with_replacements(gcvit.WindowAttentionGlobal))
class GlobalHeads(RelativeHeads):
    """Heads of GC ViT, half of them with queries of the whole image, which come from outside."""

    def refuse(self, module: Any) -> str | None:
        if module.use_global and Version(timm.__version__) < Version("1.0.31"):
            return f"timm {timm.__version__} gives a window the queries of another image; use timm 1.0.31 or newer"
        return None

    def producers(self, module: Any) -> Mapping[str, int]:
        return {"qkv": 2 if module.use_global else 3, "kept_heads": 1}


@register_adapter(*with_replacements(eva.EvaAttention, layers.DiffAttention))
class NormedHeads(TokenHeads):
    """Heads that a norm over all of them may follow."""

    spanning = "norm"

    def producers(self, module: Any) -> Mapping[str, int]:
        return {**PRODUCERS, "q_proj": 1, "k_proj": 1, "v_proj": 1, "norm": 1}


@register_adapter(*with_replacements(layers.AttentionRope))
class RopeHeads(NormedHeads):
    """Heads with rotary positions. Heads that share keys and values are one unit."""

    number = "num_kv_heads"
    scaled = ("num_heads", "attn_dim", "kv_dim")


@register_adapter("timm.models.gemma4_vit.Gemma4Attention")
class GemmaHeads(TokenHeads):
    """Heads of Gemma 4; those that share keys and values are one unit."""

    number = "num_kv_heads"
    scaled = ("num_heads",)
    consumer = "o_proj.linear"

    def producers(self, module: Any) -> Mapping[str, int]:
        return {"q_proj": 1, "k_proj": 1, "v_proj": 1}


@register_adapter(*with_replacements(layers.AttentionPoolLatent))
class LatentHeads(Heads):
    """Heads that pool tokens; where the latent itself is the query, its channels are cut with them."""

    apart = ("mlp",)

    def holds(self, module: Any) -> bool:
        """Without a layer behind them nothing reads the heads."""
        return not is_identity(module.proj)

    def slices(self, module: Any) -> list[Slice]:
        latent = [Slice("latent", 2)] if is_identity(module.q) else []
        return [*super().slices(module), *latent]


leave_whole(
    efficientvit_msra.CascadedGroupAttention,
    efficientvit_msra.LocalWindowAttention,
    why="each head reads the output of the head before it, so none can be pruned without changing the next",
)
leave_whole(swiftformer.EfficientAdditiveAttention, why="it has one head, with a norm over all its channels")
leave_whole(
    layers.RotaryEmbeddingMixed,
    why="it rotates the heads of all blocks, and each block selects what its own heads need",
)
leave_whole(SpatialAttention, why="it has one head of one channel")
