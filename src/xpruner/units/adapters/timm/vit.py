"""Adapters for the attention and MLPs of timm's VisionTransformer and SwinTransformer; other families lie beside."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from timm.layers import Attention, Mlp
from timm.models.swin_transformer import WindowAttention
from torch import nn

from xpruner.units.adapter import CostShare
from xpruner.units.base import Gate
from xpruner.units.modules.slim import SlimAttention, SlimWindowAttention
from xpruner.units.registry import register_adapter
from xpruner.units.sliced_adapter import SlicedAdapter
from xpruner.units.slices import Slice, columns, params_of, rows, table

NORM_SPANS_HEADS = "its norm spans all heads, so cutting one head would change the others"
NORM_SPANS_HIDDEN = "its norm spans all hidden units, so cutting one would change the others"


LAYERS = ("qkv", "qk", "v", "gate", "proj")
"""What reads the stream for the heads, or writes it."""


def is_identity(module: nn.Module | None) -> bool:
    """Whether an optional layer is absent."""
    return module is None or isinstance(module, nn.Identity)


@register_adapter(Attention, WindowAttention, SlimAttention, SlimWindowAttention)
class HeadAdapter(SlicedAdapter):
    """Heads of self-attention with q, k and v stacked in ``qkv`` (or ``qk`` and ``v``), and what else follows them.

    ``scale`` and ``head_dim`` keep their dense values: a head itself does not change.
    """

    kind = "head"
    consumer = "proj"
    may_be_empty = True
    spanning = "norm"

    def size(self, module: Any) -> int:
        return module.num_heads

    def slices(self, module: Any) -> list[Slice]:
        return [
            *rows(module, "qkv", 3),
            *rows(module, "qk", 2),
            *rows(module, "v"),
            *rows(module, "gate"),
            *rows(module, "norm"),
            *table(module, "relative_position_bias_table", 1),
            columns("proj"),
        ]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        width = module.proj.in_features // module.num_heads
        return {"num_heads": count} | ({"attn_dim": count * width} if hasattr(module, "attn_dim") else {})

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        """Weights depend on the stream as well; biases, and the cost of the scores and of their use, do not."""
        layers = [name for name in LAYERS if getattr(module, name, None) is not None]
        core = macs("") - sum(map(macs, layers))
        wide, narrow = self._widths(module)
        shares = [
            CostShare(0, params_of(module, table(module, "relative_position_bias_table")), ("head",)),
            CostShare(0, params_of(module, rows(module, "norm")), ("head", "v")),
            CostShare(core * wide / (wide + narrow), 0, ("head", "qk")),
            CostShare(core * narrow / (wide + narrow), 0, ("head", "v")),
        ]
        for name in layers:
            layer = getattr(module, name)
            biases = 0 if layer.bias is None or name == self.consumer else layer.bias.numel()
            for kind, portion in _portions(name).items():
                shares.append(CostShare(portion * macs(name), portion * layer.weight.numel(), ("head", kind, "embed")))
                shares.append(CostShare(0, portion * biases, ("head", kind)))
        return shares

    def _widths(self, module: Any) -> tuple[int, int]:
        """Returns the dimensions of a head's queries and of its values."""
        values = module.proj.in_features // module.num_heads
        slim = getattr(module, "qk", None)
        return (slim.out_features // (2 * module.num_heads) if slim is not None else values), values


def _portions(layer: str) -> dict[str, float]:
    """Returns which part of a layer's rows are queries and keys, and which values."""
    return {"qkv": {"qk": 2 / 3, "v": 1 / 3}, "qk": {"qk": 1.0}}.get(layer, {"v": 1.0})


@register_adapter(Mlp)
class HiddenAdapter(SlicedAdapter):
    """Hidden units of timm's Mlp: a row of fc1 and a column of fc2."""

    kind = "hidden"
    consumer = "fc2"
    may_be_empty = True
    spanning = "norm"

    def size(self, module: Any) -> int:
        return module.fc1.weight.shape[0]

    def slices(self, module: Any) -> list[Slice]:
        return [*rows(module, "fc1"), *rows(module, "norm"), columns("fc2")]

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        weights = module.fc1.weight.numel() + module.fc2.weight.numel()
        biases = params_of(module, self.slices(module)) - weights
        return [CostShare(macs(""), weights, ("hidden", "embed")), CostShare(0, biases, ("hidden",))]


class _DimensionAdapter(SlicedAdapter):
    """Dimension j of every head, for all heads of a layer alike; its cost is in the shares of the heads' adapter."""

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        return []


@register_adapter(Attention, WindowAttention, SlimAttention, SlimWindowAttention)
class QueryKeyAdapter(_DimensionAdapter):
    """Query-key dimensions: without dimension j, every score lacks the product q_j k_j."""

    kind = "qk"
    replacements: ClassVar = {Attention: SlimAttention, WindowAttention: SlimWindowAttention}

    def refuse(self, module: Any) -> str | None:
        if is_identity(getattr(module, "q_norm", None)):
            return super().refuse(module)
        return "its norm spans all dimensions of a query, so cutting one would change the others"

    def size(self, module: Any) -> int:
        layer, stacks = (module.qk, 2) if hasattr(module, "qk") else (module.qkv, 3)
        return layer.out_features // (stacks * module.num_heads)

    def slices(self, module: Any) -> list[Slice]:
        return rows(module, "qk", 2 * module.num_heads)

    def gates(self, module: Any) -> tuple[Gate, ...]:
        """The queries, which lie in front of the keys; one factor of each product is enough."""
        return (Gate("qk" if hasattr(module, "qk") else "qkv", "output", outer=module.num_heads),)


@register_adapter(Attention, WindowAttention, SlimAttention, SlimWindowAttention)
class ValueAdapter(_DimensionAdapter):
    """Value dimensions: without dimension j, the output of every head has one channel less."""

    kind = "v"
    consumer = "proj"
    spanning = "norm"
    may_be_empty = True
    replacements: ClassVar = {Attention: SlimAttention, WindowAttention: SlimWindowAttention}

    def size(self, module: Any) -> int:
        return module.proj.in_features // module.num_heads

    def slices(self, module: Any) -> list[Slice]:
        heads = module.num_heads
        layers = ("v", "gate", "norm")
        return [*(where for name in layers for where in rows(module, name, heads)), columns("proj", heads)]

    def gates(self, module: Any) -> tuple[Gate, ...]:
        return tuple(replace(gate, outer=module.num_heads, inner=1) for gate in super().gates(module))
