"""What a command shows: results on stdout, the log on stderr, and the unexpected in the run's own log."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from rich.console import Console
from rich.table import Table

from xpruner.errors import XPrunerError

FILE_WIDTH = 200  # characters a line where no terminal sets them


def show(*parts: Table | str) -> None:
    """Prints tables and plain text on stdout, in the first process alone."""
    if not PartialState().is_main_process:
        return
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for part in parts:
        console.print(part, markup=False, highlight=False, emoji=False, soft_wrap=isinstance(part, str))


class _Stderr(logging.Handler):
    """Writes to the stderr of the moment: a progress bar puts itself in its place, to stay below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


@contextmanager
def showing_log() -> Iterator[None]:
    """Shows the ``xpruner`` log of the first process on stderr for a while; errors are left to ``main``."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
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
        path = Path(folder) / "log.txt"
        with path.open("a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
        raise XPrunerError(
            f"An unexpected {type(error).__name__} stopped the run ({error}); its traceback is in {path}."
        ) from error
