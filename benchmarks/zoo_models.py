"""Small versions of every timm model that holds attention: the same modules, fewer blocks, narrower, smaller images.

A model's entry function passes its arguments to ``build_model_with_cfg``. Read there, without building anything, they
show which of them to lower; ``RULES`` states it once per model class, and the rest is as the model's authors set it:
kinds of attention, MLP and norm, biases, rotary and relative positions, class tokens, pooling, windows, layer scale.

    model = timm.create_model(name, pretrained=False, **small_kwargs(name))
    output = model(torch.randn(2, *image_size(name)))
"""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NoReturn
from unittest import mock

import timm
import torch
from torch import nn

CLASSES = 5
HEADS = 3  # at most, in the first stage
HEAD_DIM = 16  # in models of several stages; the others keep their own

ATTENTION = re.compile("Attention|Attn|MHSA|GPSA|ParallelScalingBlock")
CHANNEL_ATTENTION = {"SplitAttn", "SelectiveKernelAttn"}  # they weigh branches of a convolution, not tokens


class _Stop(Exception):
    """Ends the construction of a model as soon as what was looked for is known."""


@dataclass(frozen=True)
class Entry:
    """What a model's entry function asks for.

    ``given`` is what it hands over; ``arguments`` adds the defaults of the class, the fields of its configuration and,
    as ``pixels``, the side of the images that the model is made for.
    """

    name: str
    cls: type[nn.Module]
    given: Mapping[str, Any]
    arguments: Mapping[str, Any]

    def accepts(self, argument: str) -> bool:
        return argument in self.arguments and argument not in (self.given.get("kwargs_filter") or ())


@cache
def entry(name: str) -> Entry:
    """Runs a model's entry function up to the point where the model would be built."""
    function = timm.models.model_entrypoint(name)
    caught: dict[str, Any] = {}

    def catch(cls: type[nn.Module], *_: Any, **given: Any) -> NoReturn:
        caught.update(cls=cls, given=given)
        raise _Stop

    module = sys.modules[function.__module__]
    try:
        with torch.device("meta"), mock.patch.object(module, "build_model_with_cfg", catch):
            function(pretrained=False)
    except _Stop:
        pass
    cls, given = caught["cls"], caught["given"]
    config = given.get("model_cfg") or given.get("cfg")
    configured = vars(config) if hasattr(config, "__dataclass_fields__") else {}
    pretrained: Any = timm.get_pretrained_cfg(name)
    return Entry(name, cls, given, {**_defaults(cls), **configured, **given, "pixels": pretrained.input_size[-1]})


def _defaults(cls: type) -> dict[str, Any]:
    parameters = [p for base in reversed(cls.__mro__[:-1]) for p in inspect.signature(base).parameters.values()]
    return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}


# Which models


def attention_models() -> list[str]:
    """The names of all registered timm models in which a module's class name says attention, sorted as timm does.

    The name counts if it matches ``ATTENTION`` and is not one of ``CHANNEL_ATTENTION``: squeeze-and-excitation and the
    like are not meant. Attention that does not carry it in its name is not found (``SHSA`` of SHViT, ``SHMA`` of
    IFormer, ``LiteMLA`` of EfficientViT). Models are built on the meta device, up to their first attention, and once
    for all those whose arguments differ in nothing but numbers: these decide how much there is, not of what kind.
    """
    found: dict[tuple[type, str], bool] = {}
    for name in timm.list_models():
        kind = _kind(name)
        if kind not in found:
            found[kind] = _holds_attention(name)
    return [name for name in timm.list_models() if found[_kind(name)]]


def _kind(name: str) -> tuple[type, str]:
    """The class and its arguments, in which all numbers but zero look alike."""
    found = entry(name)
    arguments = {key: value for key, value in found.given.items() if key != "pretrained_cfg"}
    text = re.sub(r" at 0x\w+", "", repr(sorted(arguments.items())))
    return found.cls, re.sub(r"(?<![\w.])\d+(\.\d+)?(e-?\d+)?\b", lambda n: "n" if float(n[0]) else "0", text)


def _holds_attention(name: str) -> bool:
    construct = nn.Module.__init__

    def watch(module: nn.Module, *args: Any, **kwargs: Any) -> None:
        kind = type(module).__name__
        if ATTENTION.search(kind) and kind not in CHANNEL_ATTENTION:
            raise _Stop
        construct(module, *args, **kwargs)

    try:
        with torch.device("meta"), mock.patch.object(nn.Module, "__init__", watch):
            timm.create_model(name, pretrained=False)
    except _Stop:
        return True
    return False


# How an argument is lowered: from its value and all the arguments to the new value


def at_most(limit: Any, value: Any, arguments: Mapping[str, Any]) -> Any:
    if isinstance(value, (list, tuple)):
        return [at_most(limit, item, arguments) for item in value]
    return value if value is None else min(value, limit)


def few_heads(value: Any, arguments: Mapping[str, Any]) -> Any:
    """At most three, or four where they share keys and values; in later stages more, in the proportion of before.

    A convolutional stem without a projection ties the width, and so the heads, to what it puts out.
    """
    if getattr(arguments.get("embed_layer"), "keywords", {}).get("proj") is False:
        return value
    if not isinstance(value, (list, tuple)):
        return min(value, HEADS + bool(arguments.get("num_kv_heads")))
    return [max(1, round(heads * min(value[0], HEADS) / value[0])) for heads in value]


def same_head_dim(value: int, arguments: Mapping[str, Any]) -> int:
    heads = arguments["num_heads"]
    return value // heads * few_heads(heads, arguments)


def narrow_heads(value: Any, arguments: Mapping[str, Any]) -> Any:
    """Widths of all stages, or of the first where the others follow from it, with heads of 16 channels."""
    heads = few_heads(arguments["num_heads"], arguments)
    if isinstance(value, (list, tuple)):
        return [HEAD_DIM * count for count in heads]
    return HEAD_DIM * (heads[0] if isinstance(heads, list) else heads)


def scaled(limit: int, value: Any, arguments: Mapping[str, Any]) -> list[int]:
    """Widths of all stages so that the widest has ``limit`` channels, in multiples of eight."""
    factor = min(1.0, limit / max(value))
    return [round(width * factor / 8) * 8 for width in value]


def windows(value: Any, arguments: Mapping[str, Any]) -> Any:
    """Windows of 4 for 7, 8 for 14: several in each of the early stages at 64 pixels."""
    return [4 * size // 7 for size in value] if isinstance(value, (list, tuple)) else 4


def in_proportion(value: int, arguments: Mapping[str, Any]) -> int:
    return value * same_head_dim(arguments["embed_dim"], arguments) // arguments["embed_dim"]


def doubling(value: Any, arguments: Mapping[str, Any]) -> list[int]:
    """Widths of all stages where heads have 32 channels; some depthwise convolutions ask for exact multiples."""
    first = HEAD_DIM * min(value[0] // 32, HEADS)
    return [first * 2**stage for stage in range(len(value))]


def kv_heads(value: Any, arguments: Mapping[str, Any]) -> Any:
    """One block as the first one, one as in the middle, where fewer heads may have keys and values of their own."""
    if value is None:
        return None
    share = arguments["num_heads"] // min(value)
    heads = few_heads(arguments["num_heads"], arguments)
    return [heads, heads // share]


def small_blocks(value: dict[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {**value, "block_size": value["block_size"] // 2} if "block_size" in value else value


def narrow_clip(value: float, arguments: Mapping[str, Any]) -> float:
    """The networks that end in attention pooling, with heads of 64 channels; of the others none is wide."""
    return 512 / arguments["blocks"][-1].c if arguments["head_type"].startswith("attn") else value


def mvit_variant(value: None, arguments: Mapping[str, Any]) -> str | None:
    """MViTv2 is built from named configurations alone; without ``expand_attn`` there is only one, the large one."""
    if not arguments["expand_attn"]:
        return None
    return "mvitv2_small_cls" if arguments["use_cls_token"] else "mvitv2_tiny"


Reducer = Callable[[Any, Mapping[str, Any]], Any]
two = partial(at_most, 2)
one = partial(at_most, 1)


def four_patches(arguments: Mapping[str, Any]) -> int:
    """Four patches a side; where a convolutional stem precedes them, at a stride of 16 or 32, three or six."""
    return 4 * arguments["patch_size"] if arguments["patch_size"] > 1 else 96


def one_block(arguments: Mapping[str, Any]) -> int:
    """One block of halo attention, of half its size, in the last stage at a stride of 32."""
    return 32 * (arguments["self_attn_kwargs"].get("block_size", 8) // 2)


def half(arguments: Mapping[str, Any]) -> int:
    return arguments["pixels"] // 2


@dataclass(frozen=True)
class Rule:
    """The side of the images in pixels, and the new values of arguments, or how to come to them."""

    pixels: int | Callable[[Mapping[str, Any]], int]
    changes: Mapping[str, Any]


PLAIN = {"depth": two, "num_heads": few_heads, "embed_dim": same_head_dim}
STAGED = {"depths": two, "num_heads": few_heads, "embed_dims": narrow_heads}
TAPERED = {"depths": two, "num_heads": few_heads, "embed_dim": narrow_heads}
GEMMA = PLAIN | {"intermediate_size": in_proportion, "position_embedding_size": partial(at_most, 64)}
TOKENS_FOR_TEXT = PLAIN | {"out_features": partial(at_most, 64)}
MAXXVIT = {
    "depths": two,
    "embed_dim": doubling,
    "stem_width": partial(at_most, HEAD_DIM),
    "transformer_dim_head": HEAD_DIM,
}
LEVIT = {"depth": two, "embed_dim": [64, 96, 128], "key_dim": 16, "num_heads": [3, 4, 5]}
CONV_ATTENTION = {"depth_list": two}

RULES = {
    "Beit": Rule(four_patches, PLAIN),
    "ByobNet": Rule(
        one_block, {"width_factor": narrow_clip, "attn_kwargs": small_blocks, "self_attn_kwargs": small_blocks}
    ),
    "CPUBone": Rule(64, CONV_ATTENTION),
    "CSATv2": Rule(128, {"depths": two, "transformer_depths": one}),
    "Cait": Rule(four_patches, PLAIN),
    "CoaT": Rule(64, {"serial_depths": two, "parallel_depth": one, "embed_dims": partial(scaled, 256)}),
    "ConVit": Rule(64, {"depth": 2, "local_up_to_layer": 1, "num_heads": 4}),
    "CrossVit": Rule(half, {"depth": [[1, 2, 0], [1, 2, 0]], "embed_dim": [48, 96], "num_heads": [3, 3]}),
    "DaVit": Rule(64, STAGED | {"window_size": windows}),
    "DeepseekVitClassifier": Rule(84, TOKENS_FOR_TEXT),
    "DeepseekVitEncoder": Rule(84, TOKENS_FOR_TEXT),
    "EdgeNeXt": Rule(64, {"depths": two}),
    "EfficientFormer": Rule(224, {"depths": two, "num_vit": one, "embed_dims": partial(scaled, 256)}),
    "EfficientFormerV2": Rule(64, {"depths": two, "num_vit": one}),
    "EfficientVitMsra": Rule(128, {}),
    "Eva": Rule(four_patches, PLAIN | {"num_kv_heads": kv_heads}),
    "FastVit": Rule(128, {"layers": two, "embed_dims": doubling}),
    "Gemma4VitClassifier": Rule(96, GEMMA),
    "Gemma4VitEncoder": Rule(96, GEMMA),
    "GlobalContextVit": Rule(96, {}),
    "Hiera": Rule(64, {"stages": two, "num_heads": few_heads, "embed_dim": narrow_heads}),
    "HieraDet": Rule(64, {"stages": [1, 2, 3, 2], "global_att_blocks": [5], "embed_dim": narrow_heads}),
    "Levit": Rule(128, LEVIT),
    "LevitDistilled": Rule(128, LEVIT),
    "LowFormer": Rule(64, CONV_ATTENTION),
    "MaxxVit": Rule(96, MAXXVIT),
    "MetaFormer": Rule(64, {}),
    "MobileNetV3": Rule(96, {}),
    "MobileNetV5": Rule(96, {"channel_multiplier": 0.125}),
    "MobileNetV5Encoder": Rule(96, {"channel_multiplier": 0.125}),
    "MultiScaleVit": Rule(64, {"cfg_variant": mvit_variant}),
    "NaFlexVit": Rule(four_patches, PLAIN),
    "Nest": Rule(64, {}),
    "NextViT": Rule(64, {"depths": [2, 2, 5, 2]}),
    "PoolingVisionTransformer": Rule(64, {"depth": two, "heads": [3, 6, 12], "base_dims": [16, 16, 16]}),
    "PyramidVisionTransformerV2": Rule(64, STAGED),
    "Qwen3VitClassifier": Rule(64, TOKENS_FOR_TEXT),
    "Qwen3VitEncoder": Rule(64, TOKENS_FOR_TEXT),
    "SwiftFormer": Rule(64, {"layers": two, "embed_dims": partial(scaled, 256)}),
    "SwinTransformer": Rule(64, TAPERED | {"window_size": windows}),
    "SwinTransformerV2": Rule(64, TAPERED | {"window_size": windows}),
    "SwinTransformerV2Cr": Rule(96, TAPERED | {"extra_norm_period": two}),
    "TNT": Rule(64, {"depth": 2, "embed_dim": 192, "num_heads_outer": 3}),
    "TinyVit": Rule(64, STAGED | {"window_sizes": windows}),
    "Twins": Rule(64, STAGED),
    "VOLO": Rule(64, {}),
    "VisionTransformer": Rule(four_patches, PLAIN),
    "VisionTransformerDistilled": Rule(four_patches, PLAIN),
    "VisionTransformerRelPos": Rule(four_patches, PLAIN),
    "VisionTransformerSAM": Rule(four_patches, PLAIN | {"global_attn_indexes": [1], "window_size": 3}),
    "Visformer": Rule(64, PLAIN),
    "Xcit": Rule(four_patches, PLAIN),
}
UNCHANGED = {"coat_small", "crossvit_18_240"}  # their entry functions, like those of whole classes, allow no override


# What to build


def small_kwargs(name: str) -> dict[str, Any]:
    """Keyword arguments for ``timm.create_model(name, pretrained=False, **kwargs)``, fit for JSON.

    Raises:
        KeyError: ``RULES`` knows nothing of the model's class.
    """
    found = entry(name)
    kwargs = _changes(found)
    if found.accepts("img_size"):
        kwargs["img_size"] = _pixels(found)
    if found.accepts("num_classes"):
        kwargs["num_classes"] = CLASSES
    return kwargs


def image_size(name: str) -> tuple[int, int, int]:
    """Channels, height and width of the images for the model that ``small_kwargs`` describes."""
    pixels = _pixels(entry(name))
    return 3, pixels, pixels


def how_reduced(name: str) -> str:
    """What was changed, for a table: ``depth 2, num_heads 3, embed_dim 192, 64 px``."""
    found = entry(name)
    changes = [f"{argument} {_text(value)}" for argument, value in _changes(found).items()]
    return ", ".join([*changes, f"{_pixels(found)} px"])


def _changes(found: Entry) -> dict[str, Any]:
    if found.name in UNCHANGED:
        return {}
    changed = {}
    for argument, change in RULES[found.cls.__name__].changes.items():
        old = found.arguments.get(argument)
        new = change(old, found.arguments) if callable(change) else change
        if new != (list(old) if isinstance(old, tuple) else old):
            changed[argument] = new
    return changed


def _pixels(found: Entry) -> int:
    pixels = RULES[found.cls.__name__].pixels
    return pixels(found.arguments) if callable(pixels) else pixels


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {item}" for key, item in value.items())
    return "-".join(_text(item) for item in value) if isinstance(value, list) else str(value)
