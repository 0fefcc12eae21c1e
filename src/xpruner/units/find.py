"""Finds the prunable units of a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from xpruner.errors import UsageError, unknown
from xpruner.measure.macs import Trace, count_params, input_size, trace
from xpruner.units.adapter import PrunablePart
from xpruner.units.base import Gate, Term, UnitGroup, Units
from xpruner.units.registry import parts_of, why_whole
from xpruner.units.streams import STREAM_KIND, stream_key, stream_parts
from xpruner.units.wrappers import check_module

KINDS = ("head", "hidden", "qk", "v", "embed", "block")
DEFAULT_KINDS = ("head", "hidden")


def find_units(
    model: nn.Module, kinds: Sequence[str] = DEFAULT_KINDS, size: tuple[int, int, int] | None = None
) -> Units:
    """Finds the prunable units of a model.

    Args:
        model: A vision transformer of timm or transformers.
        kinds: Which kinds of unit to return: ``head`` (attention heads), ``hidden`` (MLP hidden units), ``qk`` and
            ``v`` (query-key and value dimensions, of all heads of a layer alike), ``embed`` (channels of the residual
            stream), ``block`` (whole blocks).
        size: (channels, height, width) of the images; the model's own when absent. It sets the MACs.

    Returns:
        The groups in forward order. MACs and parameters come from the real shapes and the real token counts.

    Raises:
        UsageError: If a module that holds units has no adapter or cannot be cut exactly (named), a kind is unknown, or
            something wraps the model or changed its layers (adapters, parametrizations), with what to do first.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("unit kind", kind, KINDS)
    every = list(_every_part(model))
    wanted = {part.key: part for part in every if part.adapter.kind in kinds}
    for part in wanted.values():
        _refuse(part)
    if not wanted:
        reason = (not every and why_whole(model)) or "nothing to prune"
        raise UsageError(f"The {type(model).__name__} holds no unit of the kinds {', '.join(kinds)}; {reason}.")
    traced = trace(model, size)
    terms = _terms(model, every, wanted, traced)
    groups = tuple(_group(part, terms) for part in wanted.values())
    return Units(groups, traced.total, count_params(model), size or input_size(model), terms)


def offered_kinds(model: nn.Module) -> list[str]:
    """Returns the kinds of unit that every module of a model that holds some of them can be cut by, in their order."""
    parts = list(_every_part(model))
    refused = {part.adapter.kind for part in parts if part.adapter.refuse(part.module)}
    held = {part.adapter.kind for part in parts}
    return [kind for kind in KINDS if kind in held - refused]


def prunable_parts(model: nn.Module) -> dict[str, PrunablePart]:
    """Returns every prunable module of a model by its group's key, of all kinds, without counting what anything costs.

    Raises:
        UsageError: If a module looks as if it held units and has no adapter, or something wraps the model.
    """
    return {part.key: part for part in _every_part(model) if not part.adapter.refuse(part.module)}


def _every_part(model: nn.Module) -> Iterable[PrunablePart]:
    check_module(model)
    yield from stream_parts(model)
    yield from parts_of(model)


def _refuse(part: PrunablePart) -> None:
    reason = part.adapter.refuse(part.module)
    if reason:
        raise UsageError(
            f"Cannot prune {part.path!r} ({type(part.module).__name__}): {reason}; "
            f"leave {part.adapter.kind!r} out of the kinds of unit to prune."
        )


def _group(part: PrunablePart, terms: Sequence[Term]) -> UnitGroup:
    own = [term for term in terms if part.key in term.groups]
    return UnitGroup(
        key=part.key,
        kind=part.adapter.kind,
        module=part.path,
        size=part.size,
        gates=tuple(_in_model(part, gate) for gate in part.adapter.gates(part.module)),
        macs=sum(term.macs for term in own) / part.size,
        params=sum(term.params for term in own) / part.size,
    )


def _in_model(part: PrunablePart, gate: Gate) -> Gate:
    return replace(gate, path=f"{part.location}.{gate.path}".strip("."))


def _terms(
    model: nn.Module, every: Sequence[PrunablePart], wanted: Mapping[str, PrunablePart], traced: Trace
) -> tuple[Term, ...]:
    """Resolves the kinds that every module's cost depends on to the groups that are wanted."""
    terms = []
    one_unit = {key for key, part in wanted.items() if part.is_one_unit}
    for part in every:
        around = [other.key for other in wanted.values() if other.contains(part.location)]
        if not around or part.adapter.refuse(part.module):
            continue
        enclosing = [key for key in around if key in one_unit]
        for share in part.adapter.shares(part.module, traced.below(part.location)):
            names = [_key(model, part, kind) for kind in share.kinds]
            keys = tuple(dict.fromkeys(key for key in (*names, *enclosing) if key in wanted))
            if keys:
                terms.append(Term(share.macs, share.params, keys))
    return tuple(terms)


def _key(model: nn.Module, part: PrunablePart, kind: str) -> str:
    """Returns the key of the group that a share of a part's cost names by its kind, or by its whole key."""
    if ":" in kind:
        return kind
    of_stream = kind == STREAM_KIND and not part.adapter.whole_model
    return stream_key(model, part.path) if of_stream else f"{part.path}:{kind}"
