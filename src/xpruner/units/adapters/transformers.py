"""Adapters for the vision models of transformers: heads and hidden units.

They are registered by the names of the classes, so transformers is neither imported here nor needed: a name is looked
up only once a model holds a module of that class. Where a layer keeps its heads or its hidden units in several of its
modules, the layer itself owns them.
"""

from typing import Any

from torch import nn

from xpruner.units.modules.transformers_pvt import PvtV2Attention
from xpruner.units.registry import leave_whole, register_adapter
from xpruner.units.sliced_adapter import SlicedAdapter
from xpruner.units.slices import Slice, columns, rows, table


def classes(family: str, *names: str) -> list[str]:
    """Returns the full names of classes in the modelling file of a family."""
    return [f"transformers.models.{family}.modeling_{family}.{name}" for name in names]


@register_adapter(
    *classes("vit", "ViTAttention"),
    *classes("deit", "DeiTAttention"),
    *classes("dinov2", "Dinov2Attention"),
    *classes("dinov2_with_registers", "Dinov2WithRegistersAttention"),
    *classes("dinov3_vit", "DINOv3ViTAttention"),
    *classes("vit_mae", "ViTMAEAttention"),
    *classes("detr", "DetrSelfAttention", "DetrCrossAttention"),
    *classes("conditional_detr", "ConditionalDetrSelfAttention"),
    *classes("deformable_detr", "DeformableDetrSelfAttention"),
)
class HeadAdapter(SlicedAdapter):
    """Heads of attention with a layer each for queries, keys and values; ``head_dim`` and the scale are kept."""

    kind = "head"
    consumer = "o_proj"
    producers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """Paths of the layers whose outputs read (heads, width)."""

    def size(self, module: Any) -> int:
        return module.get_submodule(self.consumer).in_features // module.head_dim

    def slices(self, module: Any) -> list[Slice]:
        return [*(where for path in self.producers for where in rows(module, path)), columns(self.consumer)]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        return {name: count for name in ("num_heads", "num_attention_heads") if hasattr(module, name)}


@register_adapter(*classes("clip", "CLIPAttention"), *classes("siglip", "SiglipAttention"))
class ClipHeadAdapter(HeadAdapter):
    """Heads of the CLIP and SigLIP towers."""

    consumer = "out_proj"


@register_adapter(*classes("swin", "SwinAttention"))
class SwinHeadAdapter(HeadAdapter):
    """Heads of Swin's windows, each with its column in the table of relative positions."""

    def slices(self, module: Any) -> list[Slice]:
        return [*super().slices(module), *table(module, "relative_position_bias.relative_position_bias_table", 1)]


@register_adapter(*classes("segformer", "SegformerAttention"))
class SegformerHeadAdapter(HeadAdapter):
    """Heads of SegFormer; the map that keys and values are taken from is kept whole."""

    apart = ("sequence_reduction",)


@register_adapter(
    *classes("conditional_detr", "ConditionalDetrDecoderSelfAttention", "ConditionalDetrDecoderCrossAttention")
)
class ConditionalDetrHeadAdapter(HeadAdapter):
    """Heads whose queries and keys are made of content and of positions; layers that a module lacks are passed over."""

    producers = ("q_content_proj", "q_pos_proj", "q_pos_sine_proj", "k_content_proj", "k_pos_proj", "v_proj")


@register_adapter(*classes("deformable_detr", "DeformableDetrMultiscaleDeformableAttention"))
class DeformableHeadAdapter(HeadAdapter):
    """Heads that attend to a few sampled points each."""

    consumer = "output_proj"
    producers = ("sampling_offsets", "attention_weights", "value_proj")

    def size(self, module: Any) -> int:
        return module.n_heads

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        """``d_model`` is only read for the width of a head."""
        return {"n_heads": count, "d_model": count * module.d_model // module.n_heads}


@register_adapter(*classes("hiera", "HieraMaskUnitAttention"))
class HieraHeadAdapter(HeadAdapter):
    """Heads of Hiera; ``hidden_size_output`` is only read for the width of all heads."""

    consumer = "proj"

    def slices(self, module: Any) -> list[Slice]:
        return [*rows(module, "qkv", 3), columns(self.consumer)]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        return {"num_heads": count, "hidden_size_output": count * module.head_dim}


@register_adapter(*classes("pvt_v2", "PvtV2SelfAttention"), PvtV2Attention)
class PvtHeadAdapter(HeadAdapter):
    """Heads of PVTv2; the map that keys and values are taken from is kept whole."""

    consumer = "proj"
    producers = ("query", "key", "value")
    apart = ("spatial_reduction",)

    def size(self, module: Any) -> int:
        return module.num_attention_heads

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        return {"num_attention_heads": count, "all_head_size": count * module.attention_head_size}

    def resizable(self, module: nn.Module) -> nn.Module:
        return module if isinstance(module, PvtV2Attention) else PvtV2Attention(module)


@register_adapter(*classes("beit", "BeitLayer"))
class BeitHeadAdapter(SlicedAdapter):
    """Heads of a BEiT layer, which keeps the table of relative positions beside its attention."""

    kind = "head"
    consumer = "attention.o_proj"
    apart = ("mlp",)
    owns = ("attention",)

    def refuse(self, module: Any) -> str | None:
        shared = module.attention.config.use_shared_relative_position_bias
        return "all layers share one table with the relative positions of their heads" if shared else None

    def size(self, module: Any) -> int:
        return module.attention.o_proj.in_features // module.attention.head_dim

    def slices(self, module: Any) -> list[Slice]:
        layers = (f"attention.{name}" for name in HeadAdapter.producers)
        return [
            *(where for path in layers for where in rows(module, path)),
            *table(module, "relative_position_bias.relative_position_bias_table", 1),
            columns(self.consumer),
        ]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        return {"attention.num_attention_heads": count}


@register_adapter(*classes("yolos", "YolosLayer"), *classes("dpt", "DPTViTLayer"))
class LayerHeadAdapter(SlicedAdapter):
    """Heads of a layer whose attention is split into two modules: one attends, the other puts out."""

    kind = "head"
    consumer = "attention.output.dense"
    apart: tuple[str, ...] = ("intermediate", "output")
    owns = ("attention",)
    attending = "attention.attention"
    """Path of the module with queries, keys and values."""

    def size(self, module: Any) -> int:
        return module.get_submodule(self.attending).num_attention_heads

    def slices(self, module: Any) -> list[Slice]:
        layers = (f"{self.attending}.{name}" for name in ("query", "key", "value"))
        return [*(where for path in layers for where in rows(module, path)), columns(self.consumer)]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        width = module.get_submodule(self.attending).attention_head_size
        return {f"{self.attending}.num_attention_heads": count, f"{self.attending}.all_head_size": count * width}


@register_adapter(*classes("swinv2", "Swinv2Layer"))
class Swinv2HeadAdapter(LayerHeadAdapter):
    """Heads of Swin v2, each with its own scale and its output of the little MLP that makes positions of distances."""

    attending = "attention.self"
    positions = "attention.self.continuous_position_bias_mlp"
    apart = (*LayerHeadAdapter.apart, f"{positions}.0")

    def slices(self, module: Any) -> list[Slice]:
        return [
            *super().slices(module),
            *rows(module, f"{self.positions}.2"),
            *table(module, "attention.self.logit_scale"),
        ]


@register_adapter(
    *classes("vit", "ViTMLP"),
    *classes("deit", "DeiTMLP"),
    *classes("beit", "BeitMLP"),
    *classes("dinov2", "Dinov2MLP"),
    *classes("dinov2_with_registers", "Dinov2WithRegistersMLP"),
    *classes("vit_mae", "ViTMAEMLP"),
    *classes("swin", "SwinMLP"),
    *classes("clip", "CLIPMLP"),
    *classes("siglip", "SiglipMLP"),
    *classes("hiera", "HieraMlp"),
    *classes("detr", "DetrMLP"),
    *classes("conditional_detr", "ConditionalDetrMLP"),
    *classes("deformable_detr", "DeformableDetrMLP"),
)
class HiddenAdapter(SlicedAdapter):
    """Hidden units of an MLP: the rows of the layers that make them, and the columns of the one that reads them."""

    kind = "hidden"
    consumer = "fc2"
    may_be_empty = True
    producers: tuple[str, ...] = ("fc1",)
    """Paths of the layers whose outputs are the hidden units; one that a module lacks is passed over."""

    def size(self, module: Any) -> int:
        return module.get_submodule(self.consumer).in_features

    def slices(self, module: Any) -> list[Slice]:
        return [*(where for path in self.producers for where in rows(module, path)), columns(self.consumer)]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        return {"intermediate_size": count} if hasattr(module, "intermediate_size") else {}


@register_adapter(
    *classes("dinov2", "Dinov2SwiGLUFFN"),
    *classes("dinov2_with_registers", "Dinov2WithRegistersSwiGLUFFN"),
    *classes("dinov3_vit", "DINOv3ViTMLP", "DINOv3ViTGatedMLP"),
)
class GatedHiddenAdapter(HiddenAdapter):
    """Hidden units of the DINO models, which may be gated."""

    consumer = "down_proj"
    producers = ("gate_proj", "up_proj")


@register_adapter(*classes("segformer", "SegformerMixMLP"))
class SegformerHiddenAdapter(HiddenAdapter):
    """Hidden units with a depthwise convolution over them."""

    producers = ("fc1", "dwconv.dwconv")


@register_adapter(*classes("pvt_v2", "PvtV2ConvFeedForwardNetwork"))
class PvtHiddenAdapter(HiddenAdapter):
    """Hidden units with a depthwise convolution over them."""

    consumer = "dense2"
    producers = ("dense1", "dwconv.dwconv")


@register_adapter(*classes("yolos", "YolosLayer"), *classes("dpt", "DPTViTLayer"), *classes("swinv2", "Swinv2Layer"))
class LayerHiddenAdapter(HiddenAdapter):
    """Hidden units of a layer whose MLP is split into two modules."""

    consumer = "output.dense"
    producers = ("intermediate.dense",)
    apart = ("attention",)
    owns = ("intermediate", "output")
    may_be_empty = False


@register_adapter(*classes("siglip", "SiglipMultiheadAttentionPoolingHead"))
class SiglipPoolHiddenAdapter(HiddenAdapter):
    """Hidden units of SigLIP's pooling head; its MultiheadAttention of torch calls no layer that a gate could reach."""

    consumer = "mlp.fc2"
    producers = ("mlp.fc1",)
    apart = ("attention",)
    owns = ("attention", "mlp")
    may_be_empty = False


leave_whole(
    *classes("yolos", "YolosMLPPredictionHead"),
    *classes("detr", "DetrMLPPredictionHead"),
    *classes("conditional_detr", "ConditionalDetrMLPPredictionHead"),
    *classes("deformable_detr", "DeformableDetrMLPPredictionHead"),
    why="it predicts boxes from the few object queries, at next to no cost",
)
leave_whole(
    *classes("detr", "DetrMHAttentionMap"),
    *classes("conditional_detr", "ConditionalDetrMHAttentionMap"),
    why="its heads are maps that convolutions read",
)
leave_whole(*classes("segformer", "SegformerMLP"), why="it is a single linear layer")
