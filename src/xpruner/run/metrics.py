"""``metrics.json``: the figures of a run's stages, checked as they are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpruner.config.typed import part_of, typed
from xpruner.files import reading

METRICS = "metrics.json"
STAGES = {"dense": "dense", "pruned": "pruned", "compensated": "compensated", "finetuned": "fine-tuned"}
"""Titles of the stages that have a model, in the order of a run."""


@dataclass
class _Figures:
    top1: float
    macs: float
    params: float


@dataclass
class _Latency:
    dense: dict[str, float]
    pruned: dict[str, float]


def titles_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns the titles of a run's stages; that of a compensation from which fine-tuning did not start shows it."""
    taken = metrics.get("compensated", {}).get("taken", True)
    return STAGES if taken else {**STAGES, "compensated": "compensated, not kept"}


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the figures of the stages that a run has finished, by stage; none where it has not written any.

    Raises:
        XPrunerError: If the file is damaged: no JSON, or a figure that is no number or out of range.
    """
    path = folder / METRICS
    if not path.exists():
        return {}
    with reading(path, "delete it, and the same `xpruner prune` command writes it again"):
        metrics = typed(dict[str, dict[str, Any]], json.loads(path.read_text(encoding="utf-8")))
        check_figures({stage: metrics[stage] for stage in STAGES if stage in metrics})
        if "latency" in metrics:
            _check_latency(metrics["latency"])
        return metrics


def check_figures(stages: dict[str, dict[str, Any]]) -> None:
    """Raises ValueError, with place and value, unless every stage has a top-1 from 0 to 1, MACs and parameters."""
    for stage, values in stages.items():
        figures = part_of(_Figures, values, stage)
        if not 0 <= figures.top1 <= 1:
            raise ValueError(f"{stage}.top1 is {figures.top1}, but must be from 0 to 1")
        if not (figures.macs > 0 and figures.params > 0):
            raise ValueError(f"{stage} has {figures.macs} MACs and {figures.params} parameters, but must have some")


def _check_latency(values: dict[str, Any]) -> None:
    latency = typed(_Latency, values, "latency")
    if latency.dense.keys() != latency.pruned.keys() or not all(batch.isdecimal() for batch in latency.dense):
        raise ValueError("latency is not of the same batch sizes for both models")
    if not all(ms > 0 for ms in (*latency.dense.values(), *latency.pruned.values())):
        raise ValueError("latency holds milliseconds that are not above 0")
