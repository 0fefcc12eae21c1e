"""How far a long loop is: a bar on a terminal, log lines elsewhere."""

import logging
import sys
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

log = logging.getLogger("xpruner")


class Progress:
    """Counts steps and shows images per second, the time left and named values.

    On a terminal this is a bar on stderr; elsewhere a line of the ``xpruner`` log every ``interval`` seconds.

    Args:
        description: What is going on, such as ``"fine-tuning"``.
        total: Number of steps.
        start: Steps done by an earlier run.
        interval: Seconds between log lines.
        enabled: False silences it, for all processes but the first.
    """

    def __init__(self, description: str, total: int, *, start: int = 0, interval: float = 30.0, enabled: bool = True):
        self.description, self.total, self.start = description, total, start
        self.interval, self.enabled = interval, enabled
        self.step, self.images = start, 0
        self.bar = _bar() if enabled and sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        self.began = self.logged = time.monotonic()
        if self.bar is not None:
            self.bar.start()
            self.bar.add_task(self.description, total=self.total, completed=self.start, status="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self.bar is not None:
            self.bar.stop()

    def advance(self, images: int, **values: float) -> None:
        """Counts one more step over so many images, and shows the values with it."""
        self.step += 1
        self.images += images
        now = time.monotonic()
        seconds = max(now - self.began, 1e-9)
        status = ", ".join([f"{self.images / seconds:.0f} images/s", *(f"{k} {v:.4g}" for k, v in values.items())])
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.step, status=status)
        elif self.enabled and now - self.logged >= self.interval:
            self.logged = now
            left = timedelta(seconds=round(seconds * (self.total - self.step) / (self.step - self.start)))
            log.info("%s: step %d of %d, %s, %s left", self.description, self.step, self.total, status, left)


def _bar() -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, TextColumn("{task.fields[status]}"), console=Console(stderr=True))
