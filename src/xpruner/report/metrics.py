"""What ``metrics.json`` holds of a run: its stages, its latency, and the result in one line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpruner.errors import UsageError
from xpruner.run.metrics import STAGES, titles_of


@dataclass(frozen=True)
class Stage:
    """Figures of the model after one stage; top-1 from 0 to 1."""

    name: str
    top1: float
    macs: int
    params: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds that both models need for a batch."""

    batch: int
    dense: float
    pruned: float


@dataclass(frozen=True)
class Result:
    """The result of the run.

    Attributes:
        stages: In the order of the run.
        latency: By batch size; empty, where it was not measured.
        resource: That the budget is of, ``macs`` or ``params``.
    """

    stages: list[Stage]
    latency: list[Latency]
    resource: str = "macs"

    @classmethod
    def of(cls, metrics: Mapping[str, Any], resource: str) -> "Result":
        """Returns the result of a finished run with these figures; ``resource`` is that of its budget."""
        titles = titles_of(metrics)
        stages = [Stage(title, *(metrics[key][f] for f in ("top1", "macs", "params"))) for key, title in titles.items()]
        measured = metrics.get("latency", {"dense": {}})
        latency = [Latency(int(batch), ms, measured["pruned"][batch]) for batch, ms in measured["dense"].items()]
        return cls(stages, latency, resource)

    @property
    def headline(self) -> str:
        """The result in one line: the cost that was asked for, the speed at the largest batch, and top-1."""
        dense, pruned = self.stages[0], self.stages[-1]
        by_params = self.resource == "params"
        left = pruned.params / dense.params if by_params else pruned.macs / dense.macs
        parts = [f"{100 * left:.1f} % of the {'parameters' if by_params else 'MACs'}"]
        if self.latency:
            largest = max(self.latency, key=lambda measured: measured.batch)
            parts.append(f"{largest.dense / largest.pruned:.2f}× as fast at batch {largest.batch}")
        return ", ".join([*parts, f"{100 * dense.top1:.1f} → {100 * pruned.top1:.1f} % top-1"])


def finished(folder: Path, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the figures of a run's stages as they are.

    Raises:
        UsageError: If one of the stages is not finished.
    """
    if not STAGES.keys() <= metrics.keys():
        raise UsageError(f"The run in {folder} is not finished; the same `xpruner prune` command finishes it.")
    return metrics
