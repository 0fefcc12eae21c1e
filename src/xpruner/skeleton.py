"""Dense models to be cut and filled: rebuilt from a name and arguments, and the arguments read off a model."""

import difflib
import importlib.metadata
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from xpruner._compat import declare_torchvision_ops
from xpruner.errors import UsageError, require, unknown
from xpruner.units.blocks import SkippedBlock
from xpruner.units.branch import ConstantBranch

declare_torchvision_ops()

import timm
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer

BLOCKS = (Block, ResPostBlock, SwinTransformerBlock, SkippedBlock)
"""Blocks off which a model's arguments can be read."""


class Misfit(Exception):
    """Why arguments, structure and weights do not go together, in words."""


def identify(model: nn.Module) -> tuple[str, str]:
    """Returns the library that a model comes from and what the model is called there.

    Raises:
        UsageError: If it cannot be told.
    """
    if type(model).__module__.startswith("transformers."):
        return "transformers", type(model).__name__
    architecture = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if architecture is None:
        raise UsageError("The model does not name its timm architecture; make it with timm.create_model.")
    return "timm", architecture


def skeleton(library: str, architecture: str, arguments: Mapping[str, Any]) -> Any:
    """Returns the dense model with parameters of the right shapes, their values undefined, and true buffers.

    Raises:
        UsageError: If the library does not know the architecture.
        Misfit: If it does not take the arguments.
    """
    build = _with_transformers if library == "transformers" else _with_timm
    try:
        with torch.random.fork_rng(devices=[]), _Unwritten():
            return build(architecture, arguments)
    except UsageError:
        raise
    except Exception as error:  # whatever the library raises at arguments that it does not take
        raise Misfit(f"{library} refuses the arguments ({type(error).__name__}: {error})") from error


def version_of(library: str) -> str:
    """Returns the version of ``timm`` or ``transformers`` that is installed."""
    return importlib.metadata.version(library)


def unknown_model(name: str) -> UsageError:
    """Returns the error for a name that is none of timm's, with the nearest one."""
    longer = sorted(timm.list_models(f"{name}*"), key=len)
    near = longer[:1] or difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
    return unknown("timm model", name, near or ["vit_*", "deit*", "swin_*"])


def _with_timm(architecture: str, kwargs: Mapping[str, Any]) -> nn.Module:
    if not timm.is_model(architecture):
        raise unknown_model(architecture)
    # checkpoint_path is given so that kwargs from a file cannot: timm would read a pickle from it
    return timm.create_model(architecture, pretrained=False, checkpoint_path=None, **kwargs)


def _with_transformers(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    library = require("transformers", "load this model")
    made = getattr(library, architecture, None)
    if made is None or not issubclass(made, library.PreTrainedModel):
        raise UsageError(f"transformers has no model class {architecture!r}; update transformers or the architecture.")
    return made(made.config_class.from_dict(dict(config)))


class _Unwritten(TorchFunctionMode):
    """Leaves new parameters unwritten: to draw weights only to replace them takes most of the time of a load."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        return target if in_place and isinstance(target, nn.Parameter) else func(*args, **kwargs)


def guesses(model: Any, library: str, architecture: str) -> Iterator[dict[str, Any]]:
    """Yields arguments that may have made the model, the likeliest first.

    A cut model tells its own widths, not those it was cut from; where both are possible, both are tried.
    """
    if library == "transformers":
        yield json.loads(model.config.to_json_string(use_diff=False))
        return
    plain = skeleton(library, architecture, {})
    least = {name: value for name, value in _outside(model).items() if value is not None}
    if isinstance(model, VisionTransformer | SwinTransformer) and all(type(b) in BLOCKS for b in _blocks(model)):
        yield _deduce(_read(model), _read(plain))
    yield least


def _outside(model: Any) -> dict[str, Any]:
    """Returns what shows of a timm model's arguments whatever its family: its classes and the size of its images."""
    embed = getattr(model, "patch_embed", None)
    return {"num_classes": model.num_classes, "img_size": _side(getattr(embed, "img_size", None))}


def _deduce(own: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments in which a model differs from its plain architecture.

    The skeleton needs hidden units enough to be cut from, so a pruned MLP needs no ``mlp_ratio`` of its own.
    """
    ratio, plain_ratio = own.pop("mlp_ratio"), plain.pop("mlp_ratio")
    kwargs = {
        name: value
        for name, value in own.items()
        if value is not None and (value != plain[name] or name in ("num_classes", "img_size"))
    }
    return kwargs if ratio <= plain_ratio else {**kwargs, "mlp_ratio": math.ceil(ratio)}


def _read(model: Any) -> dict[str, Any]:
    """Reads arguments of ``timm.create_model`` off the modules of a VisionTransformer or SwinTransformer."""
    windowed = isinstance(model, SwinTransformer)
    stages = [list(stage.blocks) for stage in model.layers] if windowed else [list(model.blocks)]
    blocks = [block for block in _blocks(model) if not isinstance(block, SkippedBlock)]
    embed, heads = model.patch_embed, [_dense_heads(stage) for stage in stages]
    mlps = [(block.mlp, block.norm1.weight.numel()) for block in blocks if not isinstance(block.mlp, ConstantBranch)]
    read = {
        "num_classes": model.num_classes,
        "img_size": _side(embed.img_size),
        "patch_size": _side(embed.patch_size),
        "in_chans": embed.proj.in_channels,
        "embed_dim": embed.proj.out_channels,
        "global_pool": model.global_pool,
        "mlp_ratio": max((mlp.fc1.out_features / dim for mlp, dim in mlps), default=0.0),
        "drop_path_rate": round(max((getattr(b.drop_path1, "drop_prob", 0.0) for b in blocks), default=0.0), 6),
    }
    if windowed:
        window = _side(max((block.window_size for block in blocks), default=None))  # smaller ones are clipped
        return {**read, "depths": [len(stage) for stage in stages], "num_heads": heads, "window_size": window}
    scaled = any(name.endswith("ls1.gamma") for name, _ in model.named_parameters())
    return {
        **read,
        "depth": len(model.blocks),
        "num_heads": heads[0],
        "class_token": model.has_class_token,
        "no_embed_class": model.no_embed_class,
        "dynamic_img_size": model.dynamic_img_size,
        "init_values": 1e-5 if scaled else None,  # any value does: the scales are among the weights
    }


def _dense_heads(stage: Sequence[Any]) -> int:
    """Returns how many heads a block had before pruning; a head keeps its width, and the stream its own."""
    for block in stage:
        if not isinstance(block, SkippedBlock) and not isinstance(block.attn, ConstantBranch):
            return block.norm1.weight.numel() * block.attn.num_heads // block.attn.proj.in_features
    return 1


def _blocks(model: Any) -> list[Any]:
    stages: Any = model.layers if isinstance(model, SwinTransformer) else [model]
    return [block for stage in stages for block in stage.blocks]


def _side(size: tuple[int, int] | None) -> int | list[int] | None:
    return size[0] if size and size[0] == size[1] else size and list(size)
