"""Files that appear whole or not at all."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from xpruner.errors import XPrunerError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls ``write`` on a temporary file beside ``path`` and then moves it there in one step.

    Raises:
        XPrunerError: If the disk is full or the folder cannot be written; a file already there stays as it was.
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
    """Writes UTF-8 text, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
