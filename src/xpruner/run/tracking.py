"""What a run writes while it runs: ``log.txt``, ``history.jsonl`` and TensorBoard events."""

import json
import logging
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass, fields
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Any

from xpruner.config.typed import part_of, typed
from xpruner.errors import XPrunerError
from xpruner.text import printable
from xpruner.training.options import OnStep

HISTORY = "history.jsonl"
LONGEST = 2**53
"""Steps of a loop; more are no exact float."""


@dataclass
class _Place:
    stage: str
    loop: int
    step: int


_PLACE = tuple(field.name for field in fields(_Place))


@dataclass(frozen=True)
class Curve:
    """The figures of one loop.

    Attributes:
        stage: Of the run, such as ``search``.
        loop: Counted from 1 in its stage: masks, then thresholds, in every round.
        figures: By name one value for each step, nan where there is none.
        steps: Ascending, counted from 1.
    """

    stage: str
    loop: int
    steps: list[int]
    figures: dict[str, list[float]]


class PrintableFormatter(logging.Formatter):
    """Writes a record as one line, whatever the names in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class _LogFile(logging.FileHandler):
    """Is silent where it cannot write: a full disk stops the run at its figures, with one sentence."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class Tracker:
    """Writes the ``xpruner`` log to ``log.txt``, and figures to ``history.jsonl`` and, where installed, TensorBoard.

    Nothing is written before :meth:`open`; what was logged until then comes first in ``log.txt``.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._log = MemoryHandler(capacity=1, flushOnClose=False)  # passes records on once there is a file
        self._writer: Any = None

    def __enter__(self) -> "Tracker":
        logger = logging.getLogger("xpruner")
        logger.addHandler(self._log)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        return self

    def open(self) -> None:
        """Makes the run directory, where there is none, and begins to write.

        Raises:
            XPrunerError: If it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = _LogFile(self.folder / "log.txt", encoding="utf-8")
        except OSError as error:
            raise XPrunerError(f"Cannot write to {self.folder}: {error.strerror}; choose another output.") from error
        file.setFormatter(PrintableFormatter("%(asctime)s %(message)s"))
        self._log.setTarget(file)
        self._log.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        logger = logging.getLogger("xpruner")
        if kind is not None:
            logger.error("stopped: %s", str(error) or kind.__name__)
        logger.removeHandler(self._log)
        if self._log.target is not None:
            self._log.target.close()
        self._log.close()
        if self._writer is not None:
            self._writer.close()

    def scalars(self, prefix: str) -> OnStep:
        """Returns a function that writes a step's figures under ``prefix/``."""
        history = _History(self.folder / HISTORY, prefix)

        def write(step: int, figures: dict[str, float]) -> None:
            history.write(step, figures)
            writer = self._events()
            if writer is not None:
                for name, value in figures.items():
                    writer.add_scalar(f"{prefix}/{name}", value, step)

        return write

    def _events(self) -> Any:
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return None
            self._writer = SummaryWriter(str(self.folder / "tensorboard"))
        return self._writer


class _History:
    """Appends the figures of one stage, with the loop that they belong to.

    A stage may hold several loops, each of which counts its steps from 1. Within a process a new loop has begun where
    the step does not rise or the figures have other names; the first step of a process continues the loop that was
    stopped, if the names agree.
    """

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage
        self.loop, self.step = 1, 0
        self.names: Set[str] | None = None
        for line in _lines(path):
            if line["stage"] == stage:
                self.loop, self.names = line["loop"], line.keys() - _PLACE

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Appends one line; it is on the disk when this returns.

        Raises:
            XPrunerError: If it cannot be written.
        """
        if self.names is not None and (step <= self.step or figures.keys() != self.names):
            self.loop += 1
        self.step, self.names = step, figures.keys()
        line = json.dumps({"stage": self.stage, "loop": self.loop, "step": step, **figures})
        try:
            with self.path.open("a+b") as file:  # a line that a kill has cut short is ended first
                cut = file.seek(0, 2) and file.seek(-1, 2) >= 0 and file.read(1) != b"\n"
                file.write(b"\n" * cut + line.encode() + b"\n")
        except OSError as error:
            raise XPrunerError(f"Cannot write {self.path}: {error.strerror}; the same command continues.") from error


def read_history(folder: str | Path) -> list[Curve]:
    """Returns the figures of every update of a run, loop by loop; none where it has no ``history.jsonl``.

    A run that was stopped repeats the steps since its last checkpoint; the last figures of each step count.
    """
    loops: dict[tuple[str, int], dict[int, dict[str, float]]] = {}
    for line in _lines(Path(folder) / HISTORY):
        figures = {name: value for name, value in line.items() if name not in _PLACE}
        loops.setdefault((line["stage"], line["loop"]), {})[line["step"]] = figures
    curves = []
    for (stage, loop), found in loops.items():
        steps = sorted(found)
        names = dict.fromkeys(name for step in steps for name in found[step])
        figures = {name: [found[step].get(name, float("nan")) for step in steps] for name in names}
        curves.append(Curve(stage, loop, steps, figures))
    return curves


def _lines(path: Path) -> list[dict[str, Any]]:
    """Returns what the lines of a history hold, less those that a kill has cut short or that are damaged otherwise."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            values = typed(dict[str, Any], json.loads(line))
            place = part_of(_Place, values, "")
            typed(dict[str, float], {name: value for name, value in values.items() if name not in _PLACE})
        except (ValueError, RecursionError):
            continue
        if place.loop >= 1 and 1 <= place.step < LONGEST:
            found.append(values)
    return found
