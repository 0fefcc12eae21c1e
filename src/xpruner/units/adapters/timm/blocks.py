"""Whole blocks as units: a block adds something to the residual stream, or it is skipped."""

from collections.abc import Callable
from typing import Any

from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import Block, ResPostBlock
from torch import nn

from xpruner.units.adapter import CostShare
from xpruner.units.base import Gate
from xpruner.units.modules.branch import SkippedBlock
from xpruner.units.registry import parts_of, register_adapter
from xpruner.units.sliced_adapter import SlicedAdapter
from xpruner.units.slices import Slice


@register_adapter(
    Block, ResPostBlock, EvaBlock, EvaBlockPostNorm, BeitBlock, SwinTransformerBlock, SwinTransformerV2Block
)
class BlockAdapter(SlicedAdapter):
    """A block as one unit. The cost that its own units do not account for depends on the block and on the stream."""

    kind = "block"

    def size(self, module: Any) -> int:
        return 1

    def gates(self, module: Any) -> tuple[Gate, ...]:
        return (Gate("", "skip"),)

    def slices(self, module: Any) -> list[Slice]:
        return [Slice(name) for name, parameter in module.named_parameters() if parameter.ndim]

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        inner = [
            share
            for part in parts_of(module)
            if part.adapter is not self and not part.adapter.refuse(part.module)
            for share in part.adapter.shares(part.module, _below(macs, part.path))
        ]
        params = sum(parameter.numel() for parameter in module.parameters())
        left = CostShare(
            macs("") - sum(share.macs for share in inner),
            params - sum(share.params for share in inner),
            ("block", "embed"),
        )
        return [left]

    def remains(self, module: Any) -> nn.Module:
        return SkippedBlock()


def _below(macs: Callable[[str], float], path: str) -> Callable[[str], float]:
    return lambda inner: macs(f"{path}.{inner}".rstrip("."))
