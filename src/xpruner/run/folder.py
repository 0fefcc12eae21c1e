"""A run directory: what a run has finished, so that the same command continues from there."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from xpruner.config import RunConfig, preset
from xpruner.config.files import stored_values
from xpruner.errors import UsageError
from xpruner.files import write_text
from xpruner.run.metrics import METRICS, read_metrics
from xpruner.runtime.precision import AUTO, resolve_precision

log = logging.getLogger("xpruner")

CHANGEABLE_BEFORE = {"finetune": "finetuned", "latency": "latency", "max_class_drop": "search"}
"""Options that may still change while the stage that reads them is not finished: a lower rate after a NaN, say."""


class Run:
    """One run directory and the figures in it.

    Args:
        config: As asked for; written to ``config.yaml`` with a precision that is settled.

    Raises:
        UsageError: If the directory belongs to a run with another configuration (the first difference is named).
        XPrunerError: If it cannot be written or read.
    """

    def __init__(self, config: RunConfig):
        self.folder = Path(config.output)
        self.metrics: dict[str, Any] = read_metrics(self.folder)
        path = self.folder / "config.yaml"
        begun = stored_values(path) if path.exists() else None
        self.config = with_precision(config, begun)
        if begun is not None:
            self._check(begun)
        write_text(path, yaml.safe_dump(comparable(self.config), sort_keys=False))

    def stage(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the figures of a stage: from ``metrics.json`` when it is finished, else computed and written there.

        What ``compute`` writes must be whole before it returns.
        """
        if name in self.metrics:
            log.info("%s: finished before, taken from %s", name, self.folder)
            return self.metrics[name]
        log.info("%s", name)
        self.metrics[name] = compute()
        write_text(self.folder / METRICS, json.dumps(self.metrics, indent=2) + "\n")
        return self.metrics[name]

    @property
    def remedy(self) -> str:
        """What helps where a file of a finished stage cannot be read."""
        return how_to_restore(self.folder)

    def state(self, name: str) -> Path:
        """Returns the folder in which a stage keeps what it needs to go on after a stop."""
        return self.folder / "state" / name

    def _check(self, begun: dict[str, Any]) -> None:
        for key, before, now in differences(begun, comparable(self.config)):
            stage = CHANGEABLE_BEFORE.get(key.split(".")[0])
            if stage is None or stage in self.metrics:
                raise UsageError(
                    f"{self.folder} belongs to a run with {key} {before!r}, not {now!r}; choose another output, or the "
                    "same configuration to continue that run."
                )


def fresh_folder(root: Path = Path("runs")) -> Path:
    """Returns the first of ``prune-1``, ``prune-2``, ... below a folder that is not there yet, and makes it."""
    for number in count(1):
        folder = root / f"prune-{number}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("numbers do not end")


def with_precision(config: RunConfig, begun: dict[str, Any] | None) -> RunConfig:
    """Returns a configuration whose precision is settled where it was ``auto``.

    A run that continues keeps the one in which it was begun, so that it ends the same on whatever machine; a new run
    gets the fastest here, the same in all processes.

    Args:
        config: As asked for.
        begun: The stored values of the configuration that is gone on with; None for a new run.
    """
    if config.precision != AUTO:
        return config
    here = broadcast_object_list([resolve_precision(AUTO, PartialState().device)])[0]
    precision = (begun or {}).get("precision", here)
    if precision != here:
        log.warning("The run was begun in %s and continues in it; here %s is faster.", precision, here)
    return replace(config, precision=precision)


def how_to_restore(folder: Path) -> str:
    """Returns what helps where a file of a run cannot be read."""
    return f"copy it again, or make the run again: `xpruner prune --config {folder / 'config.yaml'} --output ANOTHER`"


def comparable(config: RunConfig) -> dict[str, Any]:
    """Returns the configuration as plain values, without the path of the run directory, which may be moved."""
    values = asdict(config)
    del values["output"]
    return values


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yields dotted key, earlier value and present value wherever a configuration is not what it was.

    An option that was not there yet had its default.
    """
    stored = _flat(asdict(preset(before.get("preset", "default")))) | _flat(before)
    for key, value in _flat(now).items():
        if stored.get(key) != value:
            yield key, stored.get(key), value


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
