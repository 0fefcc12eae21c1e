"""The dense model of a run, wherever its weights lie."""

from xpruner.models.create import load_model, load_teacher

__all__ = ["load_model", "load_teacher"]
