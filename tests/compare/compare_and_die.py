"""Runs ``xpruner compare`` and may kill its own process after so many steps of fine-tuning."""

import os
import signal
import sys
from pathlib import Path

import torch

from xpruner.cli import main
from xpruner.runtime.progress import Progress


def compare(config: str, updates: Path, last: int | None = None) -> None:
    """Runs it in this process, writes the number of each update to a line of a file, and dies after so many."""
    torch.set_num_threads(1)
    advance, seen = Progress.advance, []

    def counting(self, images, **values):
        advance(self, images, **values)
        if self.description == "fine-tuning":
            seen.append(f"{self.step}\n")
            updates.write_text("".join(seen))
            if len(seen) == last:
                os.kill(os.getpid(), signal.SIGKILL)

    Progress.advance = counting
    sys.exit(main(["compare", "--config", config]))
