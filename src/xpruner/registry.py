"""Registries: objects by name, registered by a decorator, here or in an installed package."""

import logging
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import walk_packages
from typing import Any, Generic, TypeVar

from xpruner.errors import UsageError, unknown

log = logging.getLogger("xpruner")

T = TypeVar("T")
_loaded: set[str] = set()


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        what: The kind, as messages call it, such as ``method``.
        installed: Group of the entry points of installed packages, such as ``xpruner.methods``; each names a module
            that registers something when it is imported.
    """

    def __init__(self, what: str, installed: str | None = None):
        self.what, self.installed = what, installed
        self._things: dict[str, tuple[T, Callable[..., Any]]] = {}

    def add(self, name: str, thing: T, made_by: Callable[..., Any]) -> None:
        """Adds a thing; run again, as in a notebook, the same code replaces what it added.

        Args:
            name: To find it by.
            thing: What is found.
            made_by: The function or class behind it, which identifies its origin.

        Raises:
            UsageError: If something else has that name.
        """
        if name in self._things and _home(self._things[name][1]) != _home(made_by):
            raise UsageError(
                f"The {self.what} {name!r} is registered already, by {'.'.join(_home(self._things[name][1]))}; choose "
                "another name."
            )
        self._things[name] = thing, made_by

    def find(self, name: str) -> T:
        """Returns a thing by its name.

        Raises:
            UsageError: If the name is unknown; the nearest is named.
        """
        if name not in self._things:
            load_installed(self.installed)
        if name not in self._things:
            raise unknown(self.what, name, self._things)
        return self._things[name][0]

    def names(self) -> list[str]:
        """Returns all names, sorted, with those of installed packages."""
        load_installed(self.installed)
        return sorted(self._things)


def load_installed(group: str | None) -> None:
    """Imports a group of entry points of installed packages, once; failures are logged and skipped."""
    if group is None or group in _loaded:
        return
    _loaded.add(group)
    for entry in entry_points(group=group):
        try:
            entry.load()
        except Exception as error:  # a broken package must not break this one
            log.warning("%s of the installed packages cannot be loaded (%s: %s).", entry, type(error).__name__, error)


def import_submodules(package: str) -> None:
    """Imports every module below a package, in its sub-packages too."""
    for module in walk_packages(import_module(package).__path__, f"{package}."):
        import_module(module.name)


def _home(thing: Callable[..., Any]) -> tuple[str, str]:
    return thing.__module__, thing.__qualname__
