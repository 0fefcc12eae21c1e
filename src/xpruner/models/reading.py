"""Deduces the arguments of ``timm.create_model`` from the modules of a model that it made."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from timm.layers import get_act_layer
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import nn

from xpruner.measure.macs import input_size
from xpruner.runtime.outputs import classes_of
from xpruner.units.modules.branch import ConstantBranch, SkippedBlock

BLOCKS = (Block, ResPostBlock, SwinTransformerBlock, SkippedBlock)
"""Classes of blocks from which a model's arguments can be deduced."""
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh", "hard_swish", "mish", "leaky_relu", "elu")
"""Names that timm gives to activations."""


def outside(model: Any, plain: Any, recorded: Collection[str] = ()) -> dict[str, Any]:
    """Returns the arguments of a timm model that can be deduced in any family: classes, image size, channels, pooling.

    Args:
        model: The model.
        plain: One of the same architecture, made without arguments.
        recorded: Names of arguments that are known to have been given, and may have changed since.
    """
    size = _side(getattr(getattr(model, "patch_embed", None), "img_size", None))
    shown: dict[str, Any] = {"num_classes": classes_of(model)} | ({} if size is None else {"img_size": size})
    for name, own, usual in (
        ("in_chans", input_size(model)[0], input_size(plain)[0]),
        ("global_pool", getattr(model, "global_pool", None), getattr(plain, "global_pool", None)),
    ):
        if isinstance(own, int | str) and (name in recorded or own != usual):
            shown[name] = own
    return shown


def readable(model: nn.Module) -> bool:
    """Returns whether :func:`read_off` supports a model's class and all its blocks."""
    return isinstance(model, VisionTransformer | SwinTransformer) and all(type(b) in BLOCKS for b in _blocks(model))


def read_off(model: nn.Module, plain: nn.Module) -> Iterator[dict[str, Any]]:
    """Yields the arguments in which a model differs from its plain architecture, the likeliest first.

    A dense model has its original number of heads; for a model that lost some, it follows from the width of a head.

    Args:
        model: A VisionTransformer or SwinTransformer.
        plain: One of the same architecture, made without arguments.
    """
    own, usual = _read(model), _read(plain)
    yield _deduce(own, usual)
    before = [_heads_before_pruning(stage) for stage in _stages(model)]
    yield _deduce({**own, "num_heads": before if isinstance(model, SwinTransformer) else before[0]}, usual)


def _deduce(own: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments that differ.

    The skeleton only needs at least as many hidden units, so a pruned MLP needs no ``mlp_ratio`` of its own.
    """
    kwargs = {
        name: value
        for name, value in own.items()
        if value is not None and (value != plain[name] or name in ("num_classes", "img_size"))
    }
    ratio = kwargs.pop("mlp_ratio", 0.0)
    return kwargs if ratio <= plain["mlp_ratio"] else {**kwargs, "mlp_ratio": math.ceil(ratio)}


def _read(model: Any) -> dict[str, Any]:
    blocks = [block for block in _blocks(model) if not isinstance(block, SkippedBlock)]
    mlps = [(block.mlp, block.norm1.weight.numel()) for block in blocks if not isinstance(block.mlp, ConstantBranch)]
    embed, windowed = model.patch_embed, isinstance(model, SwinTransformer)
    heads = [_heads(stage) for stage in _stages(model)]
    return {
        "num_classes": classes_of(model),
        "img_size": _side(embed.img_size),
        "patch_size": _side(embed.patch_size),
        "in_chans": embed.proj.in_channels,
        "embed_dim": embed.proj.out_channels,
        "global_pool": model.global_pool,
        "num_heads": heads if windowed else heads[0],
        "mlp_ratio": max((mlp.fc1.out_features / dim for mlp, dim in mlps), default=0.0),
        "drop_path_rate": round(max((getattr(b.drop_path1, "drop_prob", 0.0) for b in blocks), default=0.0), 6),
        **(_read_windowed(model, blocks) if windowed else _read_plain(model, [mlp for mlp, _ in mlps])),
    }


def _read_windowed(model: Any, blocks: Sequence[Any]) -> dict[str, Any]:
    window = _side(max((block.window_size for block in blocks), default=None))  # smaller ones are clipped
    return {"depths": [len(stage) for stage in _stages(model)], "window_size": window}


def _read_plain(model: Any, mlps: Sequence[Any]) -> dict[str, Any]:
    attentions = [attention for stage in _stages(model) for attention in _attentions(stage)]
    scaled = any(name.endswith("ls1.gamma") for name, _ in model.named_parameters())
    normed = {name: _present(getattr(model, name)) for name in ("norm_pre", "norm", "fc_norm")}
    pooled = model.global_pool in ("avg", "avgmax", "max")
    read = {
        "depth": len(model.blocks),
        "class_token": model.has_class_token,
        "reg_tokens": model.num_reg_tokens,
        "no_embed_class": model.no_embed_class,
        "pos_embed": "none" if model.pos_embed is None else "learn",
        "pre_norm": normed["norm_pre"],
        "final_norm": normed["norm"] or normed["fc_norm"],
        "fc_norm": normed["fc_norm"] if normed["fc_norm"] != pooled else None,
        "pool_include_prefix": model.pool_include_prefix,
        "dynamic_img_size": model.dynamic_img_size,
        "dynamic_img_pad": model.patch_embed.dynamic_img_pad,
        "init_values": 1e-5 if scaled else None,  # any value does: the scales are among the weights
    }
    if attentions:
        first = attentions[0]
        producer = first.qk if hasattr(first, "qk") else first.qkv
        read |= {"qkv_bias": producer.bias is not None, "qk_norm": _present(first.q_norm)}
    if mlps:  # compensation gives biases to fc2 and proj, never to fc1
        read |= {"proj_bias": mlps[0].fc1.bias is not None, "act_layer": _activation(mlps[0].act)}
    return {name: None for name in ("qkv_bias", "qk_norm", "proj_bias", "act_layer")} | read


def _activation(module: nn.Module) -> str | None:
    return next((name for name in ACTIVATIONS if get_act_layer(name) is type(module)), None)


def _present(module: nn.Module) -> bool:
    return not isinstance(module, nn.Identity)


def _heads(stage: Sequence[Any]) -> int:
    return max((attention.num_heads for attention in _attentions(stage)), default=1)


def _heads_before_pruning(stage: Sequence[Any]) -> int:
    """Returns how many heads a block had before pruning; a head keeps its width, and the stream its own."""
    for block in stage:
        for attention in _attentions([block]):
            return block.norm1.weight.numel() * attention.num_heads // attention.proj.in_features
    return 1


def _attentions(stage: Sequence[Any]) -> list[Any]:
    held = [block.attn for block in stage if not isinstance(block, SkippedBlock)]
    return [attention for attention in held if not isinstance(attention, ConstantBranch)]


def _blocks(model: Any) -> list[Any]:
    return [block for stage in _stages(model) for block in stage]


def _stages(model: Any) -> list[list[Any]]:
    stages: Any = model.layers if isinstance(model, SwinTransformer) else [model]
    return [list(stage.blocks) for stage in stages]


def _side(size: tuple[int, int] | None) -> int | list[int] | None:
    return size[0] if size and size[0] == size[1] else size and list(size)
