"""What a command shows: results on stdout, the log on stderr, and the unexpected in the run's own log."""

import errno
import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.table import Table

from xpruner.cli.layout import laid_out
from xpruner.errors import FULL_DISK, XPrunerError
from xpruner.run.tracking import PrintableFormatter
from xpruner.text import printable, printable_lines

FILE_WIDTH = 200  # characters a line where no terminal sets them


def show(*parts: Table | str) -> None:
    """Prints tables and lines of text on stdout, made printable, in the first process alone."""
    if not PartialState().is_main_process:
        return
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for part in parts:
        for piece in [printable(part)] if isinstance(part, str) else laid_out(part, console.width):
            console.print(piece, markup=False, highlight=False, emoji=False, soft_wrap=isinstance(piece, str))


def show_json(value: Any) -> None:
    """Prints a value as JSON on stdout, to be read by a program, in the first process alone."""
    if PartialState().is_main_process:
        print(json.dumps(value, indent=2))


class _Stderr(logging.Handler):
    """Writes to the stderr of the moment: a progress bar puts itself in its place, to stay below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a log that cannot be written stops no run
            print(self.format(record), file=sys.stderr)


@contextmanager
def showing_log() -> Iterator[None]:
    """Shows the ``xpruner`` log of the first process on stderr for a while; errors are left to ``main``."""
    handler = _Stderr()
    handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: record.levelno < logging.ERROR and PartialState().is_main_process)
    logger = logging.getLogger("xpruner")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def tracing(folder: str | Path) -> Iterator[None]:
    """Writes the traceback of an unexpected error to the ``log.txt`` of a run.

    Raises:
        XPrunerError: In its place; it names the kind of error and the log.
    """
    try:
        yield
    except XPrunerError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise XPrunerError(FULL_DISK) from error
        path = Path(folder) / "log.txt"
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError), path.open("a", encoding="utf-8") as log:
            log.write(printable_lines("".join(traceback.format_exception(error))))
        raise XPrunerError(
            f"An unexpected {type(error).__name__} stopped the run ({error}); its traceback is in {path}."
        ) from error
