"""The two errors that a call can end with, each one clear sentence for the user."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

LISTED = 24
"""Names listed in one sentence, at most."""
NEAREST = 5
"""Names listed where there are more than that."""
FULL_DISK = "The disk or device that is written to is full; free some space, then run the same command again."


class XPrunerError(Exception):
    """Something failed while it ran: a full disk, a broken file, a loss that is not a number. Exit code 1."""

    exit_code = 1


class UsageError(XPrunerError, ValueError):
    """The request itself cannot be met: an unknown name, a budget out of range. Exit code 2."""

    exit_code = 2


def unknown(what: str, name: str, known: Iterable[str], all_of_them: str = "") -> UsageError:
    """Returns the error for a ``name`` that is not among the ``known`` ones.

    It names the nearest; where none is near, all, or of more than :data:`LISTED` the least distant ones.

    Args:
        what: Kind of the thing.
        name: What was asked for.
        known: What there is.
        all_of_them: Where all are listed, if there are too many to name, such as ```xpruner inspect` lists them``.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        remedy = f"did you mean {near[0]!r}?"
    elif len(known) <= LISTED:
        remedy = f"known are: {', '.join(known)}."
    else:
        nearest = difflib.get_close_matches(name, known, n=NEAREST, cutoff=0.0)
        remedy = f"the nearest of {len(known)} are: {', '.join(nearest)}{all_of_them and f'; {all_of_them}'}."
    return UsageError(f"Unknown {what} {name!r}; {remedy}")


def require(library: str, purpose: str, extra: str | None = None) -> ModuleType:
    """Imports an optional library.

    Args:
        library: Its name, or that of a module in it.
        purpose: What it is needed for, after "is needed to".
        extra: The extra of this package that installs it; named like the library when absent.

    Raises:
        UsageError: If it is not installed, with what it is needed for and how to get it.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        name = library.partition(".")[0]
        raise UsageError(f"{name} is needed to {purpose}; pip install 'xpruner[{extra or name}]'.") from error
