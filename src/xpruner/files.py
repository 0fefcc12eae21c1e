"""Writes files atomically, and reports files that are missing or damaged."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xpruner.errors import XPrunerError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls ``write`` on a temporary file beside ``path`` and then moves it there in one step.

    Raises:
        XPrunerError: If the disk is full or the folder cannot be written; an existing file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        reason = "the disk is full; free some space" if full else f"{error.strerror or error}; make it writable"
        raise XPrunerError(f"Cannot write {path}: {reason}, then run the same command to continue.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Reports a file, what is wrong with it and the remedy, where the block that reads it fails.

    Raises:
        XPrunerError: In place of a missing file, and of a ``ValueError`` of its content.
    """
    try:
        yield
    except (XPrunerError, OSError, ValueError, RecursionError) as error:
        reason = "it is missing" if not path.exists() else f"{error}".rstrip(".")
        raise XPrunerError(f"{path} cannot be read ({reason}); {remedy}.") from error
