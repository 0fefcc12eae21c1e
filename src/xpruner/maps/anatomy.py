"""The parts of a vision transformer that the maps read: its blocks, their attention, the tokens of its classifier."""

from dataclasses import dataclass
from typing import Any

from timm.layers import Attention, PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import nn

from xpruner.errors import UsageError
from xpruner.units.modules.branch import ConstantBranch, SkippedBlock
from xpruner.units.modules.slim import SlimAttention


@dataclass(frozen=True)
class BlockPart:
    """A block, and its attention unless that was pruned."""

    path: str
    module: Any
    attention: Any | None


@dataclass(frozen=True)
class Anatomy:
    """What the maps read of a model.

    Attributes:
        patches: The convolution that makes tokens of patches.
        blocks: In forward order.
        norm: Name of the norm in front of a block's attention.
        prefix: How many tokens come before those of the patches.
        reads: The tokens that the classifier reads, in parts that weigh alike, as do the tokens within a part.
        windowed: Whether attention stays within windows, as in Swin.
    """

    patches: nn.Conv2d
    blocks: tuple[BlockPart, ...]
    norm: str
    prefix: int
    reads: tuple[slice, ...]
    windowed: bool = False

    @property
    def attending(self) -> list[BlockPart]:
        """The blocks that have attention."""
        return [block for block in self.blocks if block.attention is not None]


Reads = tuple[slice, ...]
CLASS: Reads = (slice(0, 1),)
CLASS_AND_DISTILLATION: Reads = (slice(0, 1), slice(1, 2))
ALL: Reads = (slice(None),)


def anatomy_of(model: nn.Module) -> Anatomy:
    """Returns the anatomy of a classifier: of timm's VisionTransformer, DeiT and Swin, or transformers' ViT, DeiT,
    DINOv2 and Swin, dense or pruned.

    Raises:
        UsageError: For any other model, named.
    """
    if isinstance(model, SwinTransformer):
        anatomy = _timm_swin(model)
    elif isinstance(model, VisionTransformer):
        anatomy = _timm_vit(model)
    else:
        anatomy = _transformers(model)
    if not anatomy.attending:
        raise refused(f"a {type(model).__name__} without any attention left")
    return anatomy


def refused(what: str) -> UsageError:
    """Returns the error for something that only the methods from outside can explain."""
    return UsageError(
        f"This explanation method cannot read {what}; "
        "use 'integrated_gradients' or 'occlusion', which work on any classifier."
    )


def patch_convolution(model: nn.Module) -> nn.Conv2d | None:
    """Returns a model's first convolution where its windows do not overlap, as those that make patches do not."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    return first if first is not None and first.kernel_size == first.stride else None


def _timm_vit(model: Any) -> Anatomy:
    if not isinstance(model.patch_embed, PatchEmbed):
        raise refused(f"patches made by a {type(model.patch_embed).__name__}")
    if model.global_pool not in ("token", "avg"):
        raise refused(f"a classifier that pools its tokens by {model.global_pool!r}")
    prefix = model.num_prefix_tokens
    if isinstance(model, VisionTransformerDistilled):
        reads = CLASS_AND_DISTILLATION
    elif model.global_pool == "token":
        reads = CLASS
    else:
        reads = ALL if model.pool_include_prefix else (slice(prefix, None),)
    blocks = tuple(_timm_block(f"blocks.{number}", block) for number, block in enumerate(model.blocks))
    return Anatomy(model.patch_embed.proj, blocks, "norm1", prefix, reads)


def _timm_swin(model: Any) -> Anatomy:
    if model.global_pool != "avg":
        raise refused(f"a classifier that pools its tokens by {model.global_pool!r}")
    blocks = tuple(
        _timm_block(f"layers.{stage}.blocks.{number}", block)
        for stage, layer in enumerate(model.layers)
        for number, block in enumerate(layer.blocks)
    )
    return Anatomy(model.patch_embed.proj, blocks, "norm1", 0, ALL, windowed=True)


def _timm_block(path: str, block: Any) -> BlockPart:
    if isinstance(block, SkippedBlock):
        return BlockPart(path, block, None)
    if type(block) not in (Block, ResPostBlock, SwinTransformerBlock):
        raise refused(f"{path!r}, a {type(block).__name__}")
    if isinstance(block.attn, ConstantBranch):
        return BlockPart(path, block, None)
    if not isinstance(block.attn, Attention | WindowAttention | SlimAttention):
        raise refused(f"{path + '.attn'!r}, a {type(block.attn).__name__}")
    return BlockPart(path, block, block.attn)


def _transformers(model: Any) -> Anatomy:
    """The classes are known by name: transformers need not be installed."""
    families = {cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("transformers.models.")}
    family = next((name for name in _FAMILIES if name in families), None)
    patches = patch_convolution(model)
    if family is None or patches is None:
        raise refused(f"a {type(model).__name__}")
    layer, norm, prefix, reads = _FAMILIES[family]
    prefix += getattr(model.config, "num_register_tokens", 0)
    blocks = tuple(
        BlockPart(path, module, module.attention)
        for path, module in model.named_modules()
        if type(module).__name__ == layer
    )
    if reads is None:
        reads = (slice(0, 1), slice(prefix, None))
    return Anatomy(patches, blocks, norm, prefix, reads, windowed=layer == "SwinLayer")


_FAMILIES: dict[str, tuple[str, str, int, Reads | None]] = {
    "ViTForImageClassification": ("ViTLayer", "layernorm_before", 1, CLASS),
    "DeiTForImageClassification": ("DeiTLayer", "layernorm_before", 2, CLASS),
    "DeiTForImageClassificationWithTeacher": ("DeiTLayer", "layernorm_before", 2, CLASS_AND_DISTILLATION),
    "Dinov2ForImageClassification": ("Dinov2Layer", "norm1", 1, None),
    "Dinov2WithRegistersForImageClassification": ("Dinov2WithRegistersLayer", "norm1", 1, None),
    "SwinForImageClassification": ("SwinLayer", "layernorm_before", 0, ALL),
}
"""Class of the block, its first norm, prefix tokens but for registers, and what is read: None for class and patches."""
