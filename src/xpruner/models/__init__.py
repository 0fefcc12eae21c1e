"""The dense model of a run, wherever its weights lie."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["load_model", "load_teacher"]

if TYPE_CHECKING:
    from xpruner.models.create import load_model, load_teacher


def __getattr__(name: str) -> Any:
    """Loads the two verbs on first use: what they build on reads other modules of this package."""
    if name in __all__:
        return getattr(import_module("xpruner.models.create"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
