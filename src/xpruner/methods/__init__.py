"""Pruning methods: each one function from a :class:`Problem` to an :class:`Outcome`, in a file of its own."""

from importlib import import_module
from pkgutil import iter_modules

from xpruner.methods.base import Method, Outcome, Problem, find_method, method_names, register_method

__all__ = ["Method", "Outcome", "Problem", "find_method", "method_names", "register_method"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
