"""Where prunable units live in a model: :func:`find_units` and the registry of adapters behind it."""

from collections.abc import Sequence

from torch import nn

from xpruner.cost import count_params, input_size, trace
from xpruner.errors import UsageError, unknown
from xpruner.units.base import Adapter, Keep, PrunablePart, UnitGroup, Units, adapter_of, register_adapter
from xpruner.units.timm import branches

__all__ = ["KINDS", "Adapter", "Keep", "UnitGroup", "Units", "find_units", "prunable_parts", "register_adapter"]

KINDS = ("head", "hidden")


def find_units(model: nn.Module, kinds: Sequence[str] = KINDS, size: tuple[int, int, int] | None = None) -> Units:
    """Finds the prunable units of a model: attention heads and MLP hidden units of every block.

    Args:
        model: A timm VisionTransformer (ViT, DeiT, distilled DeiT, DeiT-III) or SwinTransformer.
        kinds: Which kinds of unit to return, of ``head`` and ``hidden``.
        size: (channels, height, width) of the images; the model's own when absent. It sets the MACs.

    Returns:
        The groups in forward order. MACs and parameters come from the real shapes and the real token counts.

    Raises:
        UsageError: If the model or one of its blocks has no adapter (named, with what is supported), or a kind is
            unknown.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("unit kind", kind, KINDS)
    found = [part for part in prunable_parts(model).values() if part.adapter.kind in kinds]
    if not found:
        raise UsageError(f"The {type(model).__name__} holds no unit of the kinds {', '.join(kinds)}; nothing to prune.")
    total, shapes = trace(model, size)
    groups = tuple(
        UnitGroup(
            key=part.key,
            kind=part.adapter.kind,
            module=part.path,
            consumer=part.consumer,
            size=part.adapter.size(part.module),
            width=part.adapter.width(part.module),
            macs=part.adapter.macs(part.module, shapes[part.consumer]),
            params=part.adapter.params(part.module),
        )
        for part in found
    )
    return Units(groups, total, count_params(model), size or input_size(model))


def prunable_parts(model: nn.Module) -> dict[str, "PrunablePart"]:
    """Returns every prunable module of a model by its group's key, without counting what anything costs.

    Raises:
        UsageError: As :func:`find_units`.
    """
    parts = [PrunablePart(path, module, adapter_of(module, path)) for path, module in branches(model)]
    return {part.key: part for part in parts}
