"""The two ways in which a call can end badly, each one clear sentence for the user."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class XPrunerError(Exception):
    """Something failed while it ran: a full disk, a broken file, a loss that is not a number. Exit code 1."""

    exit_code = 1


class UsageError(XPrunerError, ValueError):
    """The request itself cannot be met: an unknown name, a budget out of range. Exit code 2."""

    exit_code = 2


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Returns the error for a ``name`` that is not among the ``known`` ones; it names the nearest, or all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}."
    return UsageError(f"Unknown {what} {name!r}; {remedy}")


def require(library: str, purpose: str) -> ModuleType:
    """Imports an optional library.

    Raises:
        UsageError: If it is not installed, with what it is needed for and how to get it.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UsageError(f"{library} is needed to {purpose}; pip install 'xpruner[{library}]'.") from error
