"""Runs ``xpruner compare``, prints each step of fine-tuning and, after so many, kills its own process.

``compare_and_die.py CONFIG [STEPS]``
"""

import os
import signal
import sys

import torch

from xpruner.cli import main
from xpruner.training.progress import Progress


def die_after(steps: int | None) -> None:
    advance, seen = Progress.advance, [0]

    def counting(self, images, **values):
        advance(self, images, **values)
        if self.description == "fine-tuning":
            print("made update", self.step, flush=True)
            seen[0] += 1
            if seen[0] == steps:
                os.kill(os.getpid(), signal.SIGKILL)

    Progress.advance = counting


if __name__ == "__main__":
    torch.set_num_threads(1)
    die_after(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    sys.exit(main(["compare", "--config", sys.argv[1]]))
