"""Whole blocks as units: a block adds something to the residual stream, or it is skipped."""

from collections.abc import Callable
from typing import Any

from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor, nn

from xpruner.units.base import Gate
from xpruner.units.registry import Share, parts_of, register_adapter


class SkippedBlock(nn.Module):
    """Stands where a block was cut: hands its input on, whatever else a block is given."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """Returns x."""
        return x


@register_adapter(
    Block, ResPostBlock, EvaBlock, EvaBlockPostNorm, BeitBlock, SwinTransformerBlock, SwinTransformerV2Block
)
class BlockAdapter:
    """A block as one unit. What its own units do not account for goes with the block and with the stream's width."""

    kind = "block"
    may_be_empty = True
    owns = ()

    def holds(self, module: Any) -> bool:
        return True

    def refuse(self, module: Any) -> str | None:
        return None

    def size(self, module: Any) -> int:
        return 1

    def gate(self, module: Any) -> Gate:
        return Gate("", "skip")

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[Share]:
        inner = [
            share
            for part in parts_of(module)
            if part.adapter is not self and not part.adapter.refuse(part.module)
            for share in part.adapter.shares(part.module, _below(macs, part.path))
        ]
        params = sum(parameter.numel() for parameter in module.parameters())
        left = Share(
            macs("") - sum(share.macs for share in inner),
            params - sum(share.params for share in inner),
            ("block", "embed"),
        )
        return [left]

    def resizable(self, module: Any) -> nn.Module:
        return module

    def cut(self, module: Any, keep: Tensor) -> None:
        """A block has one unit; to keep it changes nothing, and without it the block is replaced."""


def _below(macs: Callable[[str], float], path: str) -> Callable[[str], float]:
    return lambda inner: macs(f"{path}.{inner}".rstrip("."))
