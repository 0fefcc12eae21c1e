"""Models: the dense model of a run, from any source of weights, and models on disk."""

from typing import TYPE_CHECKING

from xpruner._lazy import lazily

__all__ = ["load", "load_model", "load_teacher", "save"]

if TYPE_CHECKING:
    from xpruner.models.checkpoint import load, save
    from xpruner.models.create import load_model, load_teacher

__getattr__, __dir__ = lazily(
    __name__,
    {
        "load_model": "models.create",
        "load_teacher": "models.create",
        "save": "models.checkpoint",
        "load": "models.checkpoint",
    },
)
