"""Embedding channels: the width of the residual stream, of a whole VisionTransformer or of one stage of a Swin."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention, Mlp
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from xpruner.units.adapter import CostShare
from xpruner.units.base import Gate
from xpruner.units.modules.branch import ConstantBranch, SkippedBlock
from xpruner.units.modules.slim import SlimAttention, SlimWindowAttention
from xpruner.units.sliced_adapter import SlicedAdapter, is_layer_norm
from xpruner.units.slices import Slice, columns, params_of, rows, table
from xpruner.units.streams import STREAM_KIND, Stream, register_streams

BLOCKS = (Block, SwinTransformerBlock)
BRANCHES = (Attention, WindowAttention, SlimAttention, SlimWindowAttention, Mlp, ConstantBranch)


@dataclass(frozen=True)
class EmbedAdapter(SlicedAdapter):
    """Channels of a residual stream: whatever writes it, lies on it, normalises it or reads it is cut.

    A LayerNorm over fewer channels has other statistics; the gate makes every norm normalise over the open channels
    alone, which is what the cut norm does.

    Attributes:
        path: Of the module whose blocks read and write the stream.
        stage: Its number; the first is written by the patch embedding, the others by Swin's patch merging.
        last: Whether the classifier reads it; else the next patch merging does.
    """

    path: str
    stage: int
    last: bool
    kind = STREAM_KIND
    whole_model = True

    def refuse(self, module: Any) -> str | None:
        if getattr(module, "attn_pool", None) is not None:
            return "its attention pooling reads the embedding channels"
        if not isinstance(getattr(module.patch_embed, "proj", None), nn.Conv2d):
            return "they are the channels of the convolutions in front of it"
        if module.num_classes == 0:
            return "it has no classifier, so the embedding channels are its output"
        for path, block in self._blocks(module):
            if type(block) not in BLOCKS or any(type(getattr(block, name)) not in BRANCHES for name in ("attn", "mlp")):
                return f"the embedding channels of {path} ({type(block).__name__}) cannot be followed"
        for path in self._norms(module):
            if not is_layer_norm(module.get_submodule(path)):
                return f"{path} is no LayerNorm, and only those are known to work on fewer channels"
        return None

    def size(self, module: Any) -> int:
        if self.stage:
            return module.get_submodule(f"{self.path}.downsample.reduction").out_features
        return module.patch_embed.proj.out_channels

    def gates(self, module: Any) -> tuple[Gate, ...]:
        """Returns gates at every norm on the stream, and at the classifiers, which may read it without one."""
        heads = [Gate(path) for path in self._classifiers(module)]
        merging = [] if self.last else [Gate(f"{self._next()}.norm", "norm", outer=4)]
        return (*(Gate(path, "norm") for path in self._norms(module)), *merging, *heads)

    def slices(self, module: Any) -> list[Slice]:
        return [
            *self._around(module),
            *(where for path, block in self._blocks(module) for where in _in_block(block, path)),
        ]

    def attributes(self, module: Any, count: int) -> dict[str, Any]:
        names = ("num_features", "head_hidden_size", "embed_dim")
        return {name: count for name in names if self.last and isinstance(getattr(module, name, None), int)}

    def shares(self, module: Any, macs: Callable[[str], float]) -> list[CostShare]:
        """What lies outside the blocks; a patch merging depends on both streams and is in the later one's shares."""
        shares = []
        for where in self._around(module):
            layer, _, name = where.tensor.rpartition(".")
            merging = layer.endswith("reduction")
            if merging and where.axis == 1:
                continue
            before = (f"layers.{self.stage - 1}:embed",) if merging else ()
            work = macs(layer) if name == "weight" else 0
            shares.append(CostShare(work, params_of(module, [where]), ("embed", *before)))
        return shares

    def cut(self, module: Any, keep: torch.Tensor) -> None:
        super().cut(module, keep)
        head: Any = getattr(module, "head", None)
        if self.last and hasattr(head, "in_features"):
            head.in_features = len(keep)

    def _next(self) -> str:
        return f"layers.{self.stage + 1}.downsample"

    def _blocks(self, module: Any) -> Iterator[tuple[str, nn.Module]]:
        path = self.path if self.path == "blocks" else f"{self.path}.blocks"
        for name, block in module.get_submodule(path).named_children():
            if not isinstance(block, SkippedBlock):
                yield f"{path}.{name}", block

    def _norms(self, module: Any) -> list[str]:
        """Returns the paths of the norms over exactly this stream."""
        first = ["patch_embed.norm", "norm_pre"] if self.stage == 0 else []
        inner = [f"{path}.norm{number}" for path, _ in self._blocks(module) for number in (1, 2)]
        last = ["norm", "fc_norm"] if self.last else []
        modules = dict(module.named_modules())
        return [path for path in (*first, *inner, *last) if not isinstance(modules.get(path), nn.Identity | None)]

    def _classifiers(self, module: Any) -> list[str]:
        layers = dict(module.named_modules())
        names = ("head", "head.fc", "head_dist") if self.last else ()
        return [name for name in names if isinstance(layers.get(name), nn.Linear)]

    def _around(self, module: Any) -> list[Slice]:
        found = []
        if self.stage:
            found += rows(module, f"{self.path}.downsample.reduction")
        else:
            found += [*rows(module, "patch_embed.proj"), *rows(module, "patch_embed.norm"), *rows(module, "norm_pre")]
            for name in ("cls_token", "dist_token", "reg_token", "pos_embed"):
                found += table(module, name, 2)
        if not self.last:
            return [*found, *rows(module, f"{self._next()}.norm", 4), columns(f"{self._next()}.reduction", 4)]
        found += [*rows(module, "norm"), *rows(module, "fc_norm")]
        return [*found, *(columns(path) for path in self._classifiers(module))]


def _in_block(block: nn.Module, path: str) -> Iterator[Slice]:
    for number, branch in (("1", "attn"), ("2", "mlp")):
        yield from _relative([*rows(block, f"norm{number}"), *table(block, f"ls{number}.gamma")], path)
        for name, layer in block.get_submodule(branch).named_children():
            if isinstance(layer, nn.Linear):
                writes = name in ("proj", "fc2")
                found = rows(block, f"{branch}.{name}") if writes else [columns(f"{branch}.{name}")]
                yield from _relative(found, path)
        yield from _relative(table(block, f"{branch}.bias"), path)  # of a branch without units


def _relative(found: list[Slice], path: str) -> Iterator[Slice]:
    return (Slice(f"{path}.{where.tensor}", where.axis, where.outer) for where in found)


@register_streams(VisionTransformer)
def _vit_streams(model: VisionTransformer) -> list[Stream]:
    return [Stream("stream", "", EmbedAdapter("blocks", 0, last=True))]


@register_streams(SwinTransformer)
def _swin_streams(model: SwinTransformer) -> list[Stream]:
    paths = [f"layers.{stage}" for stage in range(len(model.layers))]
    return [Stream(path, path, EmbedAdapter(path, stage, last=path == paths[-1])) for stage, path in enumerate(paths)]
