"""Adapters for timm's modules in which units share a layer with others: parallel blocks, and heads that talk."""

from collections.abc import Callable
from typing import Any

from timm.models import cait, efficientformer_v2
from timm.models.vision_transformer import DiffParallelScalingBlock, ParallelScalingBlock

from xpruner.units.adapter import CostShare
from xpruner.units.adapters.timm.heads import with_replacements
from xpruner.units.base import Gate
from xpruner.units.modules.replacements import RESIZABLE
from xpruner.units.registry import register_adapter
from xpruner.units.sliced_adapter import SlicedAdapter
from xpruner.units.slices import Slice, columns, macs_of, params_of, rows, table

PARALLEL = with_replacements(ParallelScalingBlock, DiffParallelScalingBlock)


@register_adapter(*PARALLEL)
class ParallelHeads(SlicedAdapter):
    """Heads of a block whose first layer makes hidden units, queries, keys and values, in this order.

    The last layer may be one for heads and hidden units too, the heads in front.
    """

    kind = "head"
    replacements = RESIZABLE

    def size(self, module: Any) -> int:
        return module.num_heads

    def gates(self, module: Any) -> tuple[Gate, ...]:
        path = "attn_out_proj" if module.out_proj is None else "out_proj"
        return (Gate(path, inner=module.in_split[-1] // module.num_heads),)

    def slices(self, module: Any) -> list[Slice]:
        hidden, width, *_ = module.in_split
        return [*rows(module, "in_proj", 3, start=hidden), columns(self.gates(module)[0].path, stop=width)]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        hidden, width, *_ = module.in_split
        return {"num_heads": count, "in_split": [hidden] + 3 * [width * count // module.num_heads]}

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        hidden = macs_of(module, ParallelHidden().slices(module), macs)
        return [CostShare(macs("") - hidden, params_of(module, self.slices(module)), (self.kind,))]


@register_adapter(*PARALLEL)
class ParallelHidden(SlicedAdapter):
    """Hidden units of the same block."""

    kind = "hidden"

    def size(self, module: Any) -> int:
        return module.in_split[0]

    def gates(self, module: Any) -> tuple[Gate, ...]:
        return (Gate("mlp_out_proj") if module.out_proj is None else Gate("out_proj", before=module.in_split[-1]),)

    def slices(self, module: Any) -> list[Slice]:
        gate, hidden = self.gates(module)[0], module.in_split[0]
        return [
            *rows(module, "in_proj", stop=hidden),
            *table(module, "mlp_bias"),
            columns(gate.path, start=gate.before),
        ]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        return {"in_split": [count, *module.in_split[1:]]}

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        slices = self.slices(module)
        return [CostShare(macs_of(module, slices, macs), params_of(module, slices), (self.kind,))]


class TalkingHeads(SlicedAdapter):
    """Heads whose maps are all mixed with one another: the values of a head can be pruned, its map cannot."""

    kind = "head"
    replacements = RESIZABLE

    def size(self, module: Any) -> int:
        """Returns how many heads have values; a stock module has them all."""
        return getattr(module, "num_value_heads", module.num_heads)

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        """What no layer does is scores, for all heads, and values, for those that have some."""
        slices = self.slices(module)
        layers = sum(macs(path) for path, layer in module.named_modules() if path and not [*layer.children()])
        values = self.size(module) * self.value_width(module)
        scores = module.num_heads * self.score_width(module)
        gathered = (macs("") - layers) * values / (values + scores)
        return [CostShare(macs_of(module, slices, macs) + gathered, params_of(module, slices), (self.kind,))]

    def value_width(self, module: Any) -> int:
        """Returns the width of a head's values."""
        raise NotImplementedError

    def score_width(self, module: Any) -> int:
        """Returns the width of a head's queries."""
        raise NotImplementedError


@register_adapter(*with_replacements(cait.TalkingHeadAttn))
class CaitHeads(TalkingHeads):
    """Values of CaiT's heads."""

    consumer = "proj"

    def slices(self, module: Any) -> list[Slice]:
        scores = 2 * module.num_heads * self.score_width(module)
        return [*rows(module, "qkv", start=scores), *rows(module, "proj_w"), columns(self.consumer)]

    def value_width(self, module: Any) -> int:
        return module.proj.in_features // self.size(module)

    score_width = value_width


@register_adapter(*with_replacements(efficientformer_v2.Attention2d))
class EfficientFormerV2Heads(TalkingHeads):
    """Values of EfficientFormer V2's heads."""

    consumer = "proj.conv"

    def slices(self, module: Any) -> list[Slice]:
        made = [where for path in ("v", "v_local", "talking_head2") for where in rows(module, path)]
        return [*made, columns(self.consumer)]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        return {"dh": count * module.d}

    def value_width(self, module: Any) -> int:
        return module.d

    def score_width(self, module: Any) -> int:
        return module.key_dim
