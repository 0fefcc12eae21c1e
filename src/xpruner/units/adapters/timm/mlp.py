"""Adapters for the hidden units of timm's many MLPs: the layers that produce them, and their consumer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from timm import layers
from timm.models import (
    efficientformer,
    efficientformer_v2,
    efficientvit_msra,
    fastvit,
    levit,
    metaformer,
    mobilevit,
    pvt_v2,
    swiftformer,
    tiny_vit,
    visformer,
    vitamin,
)
from timm.models._efficientnet_blocks import UniversalInvertedResidual
from torch import nn

from xpruner.units.adapter import CostShare
from xpruner.units.adapters.timm.vit import NORM_SPANS_HIDDEN, is_identity
from xpruner.units.base import Gate
from xpruner.units.registry import leave_whole, register_adapter
from xpruner.units.sliced_adapter import SlicedAdapter
from xpruner.units.slices import Slice, columns, macs_of, params_of, rows


class Hidden(SlicedAdapter):
    """Hidden units that lie along axis 0 of some layers and along axis 1 of the consumer's weight."""

    kind = "hidden"
    consumer = "fc2"
    producers: tuple[str, ...] = ("fc1",)
    """Paths of layers along whose axis 0 the hidden units lie; those that a module lacks are passed over."""
    repeats = 1
    """How often they repeat there."""
    grouped = ""
    """Path of the layer among them with a convolution in groups; a unit is then channel j of every group."""
    norms: tuple[str, ...] = ()
    """Paths of norms on the hidden units; only those that normalise each unit by itself can be cut exactly."""

    def groups(self, module: Any) -> int:
        """Returns in how many groups the hidden units lie."""
        around = dict(module.named_modules()).get(self.grouped, nn.Identity())
        return next((layer.groups for layer in around.modules() if isinstance(layer, nn.Conv2d)), 1)

    def refuse(self, module: Any) -> str | None:
        found = dict(module.named_modules())
        norms = (found.get(path) for path in self.norms)
        exact = all(is_identity(norm) or isinstance(norm, nn.BatchNorm2d) for norm in norms)
        return super().refuse(module) if exact else NORM_SPANS_HIDDEN

    def size(self, module: Any) -> int:
        consumer = module.get_submodule(self.consumer)
        return consumer.weight.shape[1] * getattr(consumer, "groups", 1) // self.groups(module)

    def gates(self, module: Any) -> tuple[Gate, ...]:
        return tuple(replace(gate, outer=self.groups(module), inner=1) for gate in super().gates(module))

    def slices(self, module: Any) -> list[Slice]:
        groups = self.groups(module)
        made = [where for path in self.producers for where in rows(module, path, self.repeats * groups)]
        made += rows(module, self.spanning) if self.spanning else []
        read = getattr(module.get_submodule(self.consumer), "groups", 1)
        return [*made, columns(self.consumer, groups // read)]

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        slices = self.slices(module)
        return [CostShare(macs_of(module, slices, macs), params_of(module, slices), (self.kind,))]


class TokenHidden(Hidden):
    """Hidden units of an MLP whose last layer is its consumer."""

    may_be_empty = True


@register_adapter(tiny_vit.NormMlp, swiftformer.Mlp)
class NormHidden(TokenHidden):
    """Hidden units of an MLP that normalises its input."""


@register_adapter(fastvit.ConvMlp)
class FastVitHidden(Hidden):
    """Hidden units of FastViT, behind a convolution that is kept whole."""


@register_adapter(layers.ConvMlp)
class ConvHidden(TokenHidden):
    """Hidden units of an MLP of convolutions, with a norm in front of the activation."""

    producers = ("fc1", "norm")
    norms = ("norm",)


@register_adapter(layers.GluMlp)
class GluHidden(TokenHidden):
    """Hidden units of a gated MLP: a row of each half of ``fc1``."""

    repeats = 2
    spanning = "norm"


@register_adapter(layers.SwiGLU)
class SwiGluHidden(TokenHidden):
    """Hidden units of a gated MLP with two layers in place of halves."""

    producers = ("fc1_g", "fc1_x")
    spanning = "norm"


@register_adapter(vitamin.GeGluMlp)
class GeGluHidden(TokenHidden):
    """Hidden units of ViTamin's gated MLP."""

    consumer = "w2"
    producers = ("w0", "w1")


@register_adapter("timm.models.gemma4_vit.Gemma4GatedMlp")
class GemmaHidden(TokenHidden):
    """Hidden units of Gemma 4's gated MLP."""

    consumer = "down_proj.linear"
    producers = ("gate_proj", "up_proj")


@register_adapter(pvt_v2.MlpWithDepthwiseConv)
class DepthwiseHidden(TokenHidden):
    """Hidden units of PVTv2, with a depthwise convolution over them."""

    producers = ("fc1", "dwconv")


@register_adapter(metaformer.SepConv)
class SeparableHidden(TokenHidden):
    """Hidden units of MetaFormer's convolutional token mixer."""

    consumer = "pwconv2"
    producers = ("pwconv1", "dwconv")


@register_adapter(swiftformer.ConvEncoder, swiftformer.LocalRepresentation)
class SwiftHidden(Hidden):
    """Hidden units of SwiftFormer's blocks of convolutions."""

    consumer = "pwconv2"
    producers = ("pwconv1",)


@register_adapter(levit.LevitMlp)
class LevitHidden(Hidden):
    """Hidden units of LeViT, with a norm behind each layer."""

    consumer = "ln2.linear"
    producers = ("ln1",)


@register_adapter(efficientvit_msra.ConvMlp)
class EfficientVitHidden(Hidden):
    """Hidden units of EfficientViT (MSRA), likewise."""

    consumer = "pw2.conv"
    producers = ("pw1",)


@register_adapter(efficientformer.ConvMlpWithNorm)
class EfficientFormerHidden(Hidden):
    """Hidden units of EfficientFormer's maps, likewise."""

    producers = ("fc1", "norm1")
    norms = ("norm1",)


@register_adapter(efficientformer_v2.ConvMlpWithNorm)
class EfficientFormerV2Hidden(Hidden):
    """Hidden units of EfficientFormer V2, likewise, with a depthwise convolution between."""

    consumer = "fc2.conv"
    producers = ("fc1", "mid")
    norms = ("fc1.bn", "mid.bn")


@register_adapter(tiny_vit.MBConv)
class TinyVitHidden(Hidden):
    """Expanded channels of TinyViT's inverted bottlenecks."""

    consumer = "conv3.conv"
    producers = ("conv1", "conv2")


@register_adapter(vitamin.MbConvLNBlock)
class VitaminHidden(Hidden):
    """Expanded channels of ViTamin's inverted bottlenecks."""

    consumer = "conv3_1x1"
    producers = ("conv1_1x1", "conv2_kxk")


@register_adapter(UniversalInvertedResidual)
class InvertedHidden(Hidden):
    """Expanded channels of MobileNet V4's inverted bottlenecks; those with attention among them are left alone."""

    consumer = "pw_proj.conv"
    producers = ("pw_exp", "dw_mid")

    def holds(self, module: Any) -> bool:
        depthwise = is_identity(module.dw_mid) or module.dw_mid.conv.groups == module.dw_mid.conv.out_channels
        made = [getattr(module, name) for name in self.producers if not is_identity(getattr(module, name))]
        plain = all(isinstance(layer.bn, nn.BatchNorm2d) and is_identity(layer.aa) for layer in made)
        return depthwise and plain and is_identity(module.se)


@register_adapter("timm.models.lowformer.MBConv", "timm.models.cpubone.MBConv")
class LowFormerHidden(Hidden):
    """Expanded channels of LowFormer's and CPUBone's inverted bottlenecks."""

    consumer = "point_conv.conv"
    producers = ("inverted_conv", "depth_conv")
    grouped = "inverted_conv"
    norms = ("inverted_conv.norm", "depth_conv.norm")


@register_adapter("timm.models.lowformer.FusedMBConv", "timm.models.cpubone.FusedMBConv")
class FusedHidden(Hidden):
    """Expanded channels of the same with one convolution in place of two."""

    consumer = "point_conv.conv"
    producers = ("spatial_conv",)
    grouped = "spatial_conv"
    norms = ("spatial_conv.norm",)


@register_adapter("timm.models.lowformer.LowFormerBlock")
class LowFormerBlockHidden(Hidden):
    """Hidden units of LowFormer's MLP, which has no class of its own."""

    consumer = "mlp.main.3"
    producers = ("mlp.main.1",)

    def holds(self, module: Any) -> bool:
        return not is_identity(module.mlp)


@register_adapter("timm.models.cpubone.CPUBoneBlock")
class CpuBoneBlockHidden(Hidden):
    """Hidden units of CPUBone's MLP, likewise."""

    consumer = "total.0.1.main.3"
    producers = ("total.0.1.main.1",)


@register_adapter(visformer.SpatialMlp)
class SpatialHidden(Hidden):
    """Hidden units of Visformer.

    A grouped convolution over them mixes the outputs of the first layer; where there is one, its own outputs are the
    hidden units, and the first layer is kept whole.
    """

    consumer = "conv3"
    grouped = "conv2"

    def slices(self, module: Any) -> list[Slice]:
        groups = self.groups(module)
        return [*rows(module, "conv1" if module.conv2 is None else "conv2", groups), columns("conv3", groups)]


@register_adapter(mobilevit.LinearSelfAttention)
class ContextHidden(Hidden):
    """Channels of MobileViT V2's attention, which has one map for all of them; none ever meets another."""

    consumer = "out_proj"

    def slices(self, module: Any) -> list[Slice]:
        return [*rows(module, "qkv_proj", 2, start=1), columns(self.consumer)]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        return {"embed_dim": count}


leave_whole(
    layers.NormMlpClassifierHead, layers.ClNormMlpClassifierHead, metaformer.MlpHead, why="it is the classifier"
)
