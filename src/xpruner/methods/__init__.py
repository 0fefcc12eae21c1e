"""Pruning methods: each one function from a :class:`Problem` to an :class:`Outcome`, in a file of its own."""

from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import Method, find_method, list_methods, register_method
from xpruner.registry import import_submodules

__all__ = ["Method", "Outcome", "Problem", "find_method", "list_methods", "register_method"]

import_submodules(__name__)
