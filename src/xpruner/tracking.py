"""What a run writes while it goes: ``log.txt`` and TensorBoard events."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

from xpruner.errors import XPrunerError
from xpruner.learning import OnStep


class Tracker:
    """Writes the ``xpruner`` log to ``log.txt`` and figures to TensorBoard, where that is installed.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._writer: Any = None

    def __enter__(self) -> "Tracker":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._handler = logging.FileHandler(self.folder / "log.txt")
        except OSError as error:
            raise XPrunerError(f"Cannot write to {self.folder}: {error.strerror}; choose another output.") from error
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger = logging.getLogger("xpruner")
        logger.addHandler(self._handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if kind is not None:
            logging.getLogger("xpruner").error("stopped: %s", str(error) or kind.__name__)
        logging.getLogger("xpruner").removeHandler(self._handler)
        self._handler.close()
        if self._writer is not None:
            self._writer.close()

    def scalars(self, prefix: str) -> OnStep:
        """Returns a function that writes a step's figures under ``prefix/``."""

        def write(step: int, figures: dict[str, float]) -> None:
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
