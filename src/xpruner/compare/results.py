"""The results of a comparison: one JSON file for each run, with the options, code and machine that made it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import xpruner
from xpruner.compare.result_checks import check_result, check_together
from xpruner.compare.study import DENSE
from xpruner.config import RunConfig
from xpruner.config.typed import typed
from xpruner.errors import UsageError
from xpruner.files import reading, write_text
from xpruner.methods import find_method
from xpruner.run.folder import comparable, differences, with_precision
from xpruner.run.identity import Identity, first_difference
from xpruner.runtime.precision import AUTO

HARMLESS = (
    "latency", "data.workers", "data.cache", "data.max_unreadable", "finetune.cuda_graph", "finetune.checkpoint_every",
)  # fmt: skip
"""Options that change no figure."""
METHOD_SPECIFIC = ("preset", "rounds", "max_class_drop", "masks.", "thresholds.")
"""Options, or prefixes of some, that only the methods listing them read."""


def is_done(path: Path, config: RunConfig) -> bool:
    """Returns whether the result of a run exists; with precision ``auto``, in whichever precision it was made.

    Raises:
        UsageError: If it was made with another configuration; the first difference is named.
        XPrunerError: If it cannot be read.
    """
    if not path.exists():
        return False
    check_same(path, read_result(path)["config"], config)
    return True


def check_same(path: Path, before: dict[str, Any], config: RunConfig) -> None:
    """Raises UsageError, naming ``path``, where a stored configuration is not that of a run."""
    reads = () if config.method == DENSE else find_method(config.method).reads
    for key, was, is_now in differences(before, json.loads(json.dumps(comparable(config)))):
        if (key, is_now) == ("precision", AUTO):
            continue
        unread = key.startswith(METHOD_SPECIFIC) and not (reads and key.startswith(reads))
        if key not in HARMLESS and not unread:
            raise UsageError(
                f"{path} was made with {key} {was!r}, not {is_now!r}; delete it to have the trial done again, or give "
                "another output."
            )


def check_identity(results: Path, config: RunConfig, now: Identity) -> None:
    """Raises UsageError where a result in a folder is of another model or other images under the same options.

    Args:
        results: The folder.
        config: Of a trial.
        now: Its model and images, as :func:`xpruner.run.identity.in_short` returns them.
    """
    asked = json.loads(json.dumps(comparable(config)))
    for path in sorted(results.glob("*.json")):
        result = read_result(path)
        if any(result["config"].get(part) != asked[part] for part in ("model", "data", "seed")):
            continue
        difference = first_difference(result.get("identity", {}), now)
        if difference:
            raise UsageError(f"{path} was made on {difference}; delete it to run it again, or give another "
                             "output.")  # fmt: skip


def begin(folder: Path, config: RunConfig) -> RunConfig:
    """Marks a folder as an unfinished run of a configuration, and returns this with its precision resolved.

    Raises:
        UsageError: If it holds the state of another configuration.
    """
    path = folder / "config.json"
    begun = None
    if path.exists():
        with reading(path, "delete it to have the trial done again"):
            begun = typed(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    config = with_precision(config, begun)
    if begun is not None:
        check_same(folder, begun, config)
    else:
        write_text(path, json.dumps(comparable(config)))
    return config


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Writes the result of a run, whole or not at all."""
    write_text(path, json.dumps(result, indent=1) + "\n")


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Returns all results in a folder.

    Raises:
        UsageError: If there are none.
        XPrunerError: If one cannot be read, or those of one row are of different models.
    """
    results = [read_result(path) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise UsageError(f"{folder} holds no results; `xpruner compare` writes them.")
    check_together(results)
    return results


def read_result(path: Path) -> dict[str, Any]:
    """Returns the result of one run.

    Raises:
        XPrunerError: If it cannot be read, or is not a result.
    """
    with reading(path, "delete it to have the trial done again, or give the folder of a comparison"):
        result = json.loads(path.read_text(encoding="utf-8"))
        check_result(result)
        return result


def provenance() -> dict[str, str]:
    """Returns the version of xpruner and, where it runs from a clone, the commit, marked where files have changed."""
    commit = _git("rev-parse", "--short", "HEAD") if _git("ls-files", Path(__file__).name) else ""
    changed = "-dirty" if commit and _git("status", "--porcelain", "--", str(Path(xpruner.__file__).parent)) else ""
    return {"version": xpruner.__version__, **({"commit": commit + changed} if commit else {})}


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
