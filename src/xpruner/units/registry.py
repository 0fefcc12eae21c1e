"""Which classes of module hold units of which kind, and the adapters that count and cut them."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from xpruner.errors import UsageError
from xpruner.registry import ADAPTERS, load_installed
from xpruner.units.adapter import Adapter, PrunablePart

_adapters: dict[type[nn.Module] | str, dict[str, Adapter]] = {}
_left_whole: dict[type[nn.Module] | str, str] = {}

_SUSPECT = re.compile(r"Att(entio)?n(?!Pool|Mask)|MHSA|Mlp|MLP|FFN|Ffn|GLU|Glu|FeedForward|Intermediate")


def register_adapter(*classes: type[nn.Module] | str) -> Callable[[Any], Any]:
    """Registers an :class:`Adapter` for modules of exactly these classes.

    A class of a library that need not be installed is given by name: ``transformers.models.vit.modeling_vit.ViTMLP``.
    """

    def register(adapter: Any) -> Any:
        for cls in classes:
            _adapters.setdefault(cls, {})[adapter.kind] = adapter()
        return adapter

    return register


def leave_whole(*classes: type[nn.Module] | str, why: str) -> None:
    """Declares that modules of these classes, or of these names, have no units to prune, although they look like it."""
    for cls in classes:
        _left_whole[cls] = why


def why_whole(model: nn.Module) -> str | None:
    """Returns which class of module in a model is left whole, and why; None where none is."""
    for module in model.modules():
        if _entry(module) in _left_whole:
            return f"{type(module).__name__} is left whole because {_left_whole[_entry(module)]}"
    return None


def _entry(module: nn.Module) -> type[nn.Module] | str:
    """Returns what the class of a module is registered under: itself, or its name."""
    cls = type(module)
    return cls if cls in _adapters or cls in _left_whole else f"{cls.__module__}.{cls.__qualname__}"


def parts_of(model: nn.Module) -> Iterator[PrunablePart]:
    """Yields every module that holds units, once for each of its kinds, in forward order.

    A module that looks like attention or an MLP and is neither known nor made of known modules is refused by name:
    a model is pruned wholly or not at all.

    Raises:
        UsageError: For such a module.
    """
    load_installed(ADAPTERS)
    yield from _walk(model, "")


def _walk(module: nn.Module, path: str) -> Iterator[PrunablePart]:
    entry = _entry(module)
    if entry in _left_whole:
        return
    known = _adapters.get(entry, {})
    adapters = [adapter for adapter in known.values() if adapter.holds(module)]
    for adapter in adapters:
        yield PrunablePart(path, module, adapter)
    owned = {name for adapter in adapters for name in adapter.owns}
    children = [(name, child) for name, child in module.named_children() if name not in owned]
    inner = [part for name, child in children for part in _walk(child, f"{path}.{name}".lstrip("."))]
    if not known and not inner and _looks_prunable(module):
        raise UsageError(
            f"Cannot prune {path!r}: its class {type(module).__name__} has no adapter; write one and register it with "
            "xpruner.units.register_adapter, or declare it with leave_whole."
        )
    yield from inner


def _looks_prunable(module: nn.Module) -> bool:
    named = _SUSPECT.search(type(module).__name__) or hasattr(module, "num_heads")
    return bool(named) and any(True for _ in module.parameters())
