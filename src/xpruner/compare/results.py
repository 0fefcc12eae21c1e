"""The results of a comparison: one JSON a run, and which runs are still to do."""

import fcntl
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

import xpruner
from xpruner.errors import UsageError, XPrunerError
from xpruner.files import write_text


def write_result(folder: Path, name: str, result: dict[str, Any]) -> Path:
    """Writes the result of a run, whole or not at all, from the first process, and returns where it lies."""
    path = folder / f"{name}.json"
    if PartialState().is_main_process:
        write_text(path, json.dumps(result, indent=1) + "\n")
    return path


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Returns all results in a folder.

    Raises:
        UsageError: If there are none.
        XPrunerError: If one cannot be read.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(json.loads(path.read_text()))
        except ValueError as error:
            raise XPrunerError(f"{path} cannot be read ({error}); delete it to have the run done anew.") from error
    if not results:
        raise UsageError(f"{folder} holds no results; `xpruner compare` writes them.")
    return results


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Yields whether this program may do the run: two that do the same comparison share its runs.

    The claim ends with the program, however it ends; of the processes of one launch the first claims for all.
    """
    if not PartialState().is_main_process:
        yield False
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def agreed(decision: bool) -> bool:
    """Returns the first process's decision in all processes of a launch."""
    return broadcast_object_list([decision])[0]


def provenance() -> dict[str, str]:
    """Returns the version of xpruner and, where it runs from a clone, the commit."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        commit = found.stdout.strip()
    except OSError:
        commit = ""
    return {"version": xpruner.__version__, **({"commit": commit} if commit else {})}
