"""Pruning methods: each one function from a :class:`Problem` to an :class:`Outcome`, in a file of its own."""

from xpruner.methods import xpruner
from xpruner.methods.base import Method, Outcome, Problem, find_method, register_method

__all__ = ["Method", "Outcome", "Problem", "find_method", "register_method", "xpruner"]
