"""Where prunable units live in a model: :func:`find_units`, and the adapters of each library behind it."""

from xpruner.registry import import_submodules
from xpruner.units.base import Gate, Keep, Term, UnitGroup, Units
from xpruner.units.find import DEFAULT_KINDS, KINDS, find_units, offered_kinds, prunable_parts
from xpruner.units.registry import Adapter, leave_whole, register_adapter

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "Adapter",
    "Gate",
    "Keep",
    "Term",
    "UnitGroup",
    "Units",
    "find_units",
    "leave_whole",
    "offered_kinds",
    "prunable_parts",
    "register_adapter",
]

import_submodules(f"{__name__}.adapters")
