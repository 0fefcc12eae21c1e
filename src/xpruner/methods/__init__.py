"""Pruning methods: each one function from a :class:`Problem` to an :class:`Outcome`, in a file of its own."""

from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import Method, find_method, kinds_for, list_methods, register_method
from xpruner.methods._scoring import register_score
from xpruner.registry import import_submodules

__all__ = [
    "Method",
    "Outcome",
    "Problem",
    "find_method",
    "kinds_for",
    "list_methods",
    "register_method",
    "register_score",
]

import_submodules(__name__)
