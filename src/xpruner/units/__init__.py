"""Prunable units: :func:`find_units` finds them in a model, :class:`Adapter` describes them in a class of module.

``register_adapter``, ``leave_whole`` and ``register_streams`` add classes of another library; the others below are what
an adapter is written from.
"""

from xpruner.registry import import_submodules
from xpruner.units.adapter import Adapter, CostShare
from xpruner.units.base import Gate, Keep, Term, UnitGroup, Units
from xpruner.units.find import DEFAULT_KINDS, KINDS, find_units, offered_kinds, prunable_parts
from xpruner.units.registry import leave_whole, register_adapter
from xpruner.units.sliced_adapter import SlicedAdapter
from xpruner.units.slices import Slice, columns, rows, table
from xpruner.units.streams import Stream, register_streams

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "Adapter",
    "CostShare",
    "Gate",
    "Keep",
    "Slice",
    "SlicedAdapter",
    "Stream",
    "Term",
    "UnitGroup",
    "Units",
    "columns",
    "find_units",
    "leave_whole",
    "offered_kinds",
    "prunable_parts",
    "register_adapter",
    "register_streams",
    "rows",
    "table",
]

import_submodules(f"{__name__}.adapters")
