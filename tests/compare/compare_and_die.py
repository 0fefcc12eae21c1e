"""Runs ``xpruner compare`` and kills its own process at a step of fine-tuning: ``compare_and_die.py CONFIG [STEP]``."""

import os
import signal
import sys

import torch

from xpruner.cli import main
from xpruner.training.progress import Progress


def die_at(step: int) -> None:
    advance = Progress.advance

    def counting(self, images, **values):
        advance(self, images, **values)
        if self.description == "fine-tuning" and self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Progress.advance = counting


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        die_at(int(sys.argv[2]))
    sys.exit(main(["compare", "--config", sys.argv[1]]))
