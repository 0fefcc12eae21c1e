"""What a command shows while it runs: the log on stderr, and the traceback of the unexpected in the run's log."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xpruner.errors import XPrunerError


class _Stderr(logging.Handler):
    """Writes to the stderr of the moment: a progress bar puts itself in its place, to stay below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


@contextmanager
def showing_log() -> Iterator[None]:
    """Shows the ``xpruner`` log on stderr for a while, errors left out: ``main`` reports them."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: record.levelno < logging.ERROR)
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
