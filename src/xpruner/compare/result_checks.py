"""The fields that the tables and plots of a comparison read from a result, and their checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xpruner.compare.tables import ACCURACY_STAGES, rows_of
from xpruner.config.typed import part_of, typed
from xpruner.errors import XPrunerError
from xpruner.plan.budget import Budget
from xpruner.run.metrics import check_figures


@dataclass
class _Result:
    title: str
    note: str
    command: str
    version: str
    label: str
    length: str
    images: int
    config: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    keep: dict[str, list[int]]
    environment: dict[str, Any]
    commit: str = ""
    resumed: bool = False


@dataclass
class _Config:
    method: str
    budget: str
    seed: int
    precision: str
    data: dict[str, Any]


@dataclass
class _Data:
    name: str
    val_size: int
    batch_size: int


@dataclass
class _Environment:
    torch: str
    timm: str
    threads: int
    device: str = "CPU"


@dataclass
class _Measured:
    agreement: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    taken: bool = True


def check_result(values: Any) -> None:
    """Raises ValueError, with place and value, where a field is missing, of another type or out of range."""
    result = part_of(_Result, typed(dict[str, Any], values), "")
    config = part_of(_Config, result.config, "config")
    part_of(_Data, config.data, "config.data")
    part_of(_Environment, result.environment, "environment")
    Budget.parse(config.budget)
    check_figures(
        {stage: result.stages.get(stage, {}) for stage in ("dense", *(ACCURACY_STAGES.keys() & result.stages.keys()))}
    )
    for stage, figures in result.stages.items():
        measured = part_of(_Measured, figures, f"stages.{stage}")
        if not 0 <= measured.agreement <= 1 or min(measured.seconds, measured.cpu_seconds, measured.peak_mb) < 0:
            raise ValueError(f"stages.{stage} is {figures}, but agreement goes from 0 to 1 and none is below 0")
    _check_keep(result.keep)


def check_together(results: Sequence[dict[str, Any]]) -> None:
    """Raises XPrunerError where results of one row, which may differ only in their seed, are of different models."""
    for row in rows_of(results):
        if len({frozenset(result["keep"]) for result in row.results}) > 1:
            raise XPrunerError(
                f"The results of {row.label!r} at budget {row.budget} keep units of different layers; delete those of "
                "another model and have them done again."
            )


def _check_keep(keep: dict[str, list[int]]) -> None:
    for key, counts in keep.items():
        if len(counts) != 2 or not 0 <= counts[0] <= counts[1] or counts[1] < 1:
            raise ValueError(f"keep.{key} is {counts}, but must be how many units are kept and of how many")
