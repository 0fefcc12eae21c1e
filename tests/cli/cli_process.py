"""The command line as users run it: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import xpruner as package

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def python(*arguments: object) -> subprocess.CompletedProcess:
    """Runs Python."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def xpruner(*arguments: object) -> subprocess.CompletedProcess:
    """Runs ``xpruner``."""
    return python("-m", "xpruner", *arguments)


def one_line(text: str) -> str:
    """Returns the only line of a text."""
    [line] = text.splitlines()
    return line
