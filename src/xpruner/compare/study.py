"""Which runs a comparison consists of."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xpruner.config import RunConfig

DENSE = "dense"
"""The method that removes nothing: the dense model, given the same extra fine-tuning."""


@dataclass
class CompareConfig:
    """A comparison, as its YAML file says it.

    Attributes:
        title: Above the tables.
        note: What a reader of the tables must know, such as which images these are.
        output: Folder of the results, one JSON a run.
        work: Folder of what unfinished runs need to go on.
        budgets: What the pruned models may cost.
        seeds: Of every run, unless its entry says otherwise.
        length: Which of the ``lengths`` to run.
        lengths: Options of a run by the name of a length, such as the steps of search and of fine-tuning.
        base: Options of all runs.
        entries: For each row of the tables its own options, with ``seeds`` and ``budgets`` where they differ, and
            ``lengths`` where it needs options of its own at one of them.
    """

    title: str = "Comparison"
    note: str = ""
    output: str = "results"
    work: str = "runs/compare"
    budgets: list[str] = field(default_factory=lambda: ["0.5"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    length: str = "short"
    lengths: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One row of the tables.

    Attributes:
        label: Its name.
        config: Its options; budget and seed are set run by run.
        budgets: To run it at.
        seeds: To run it with.
    """

    label: str
    config: RunConfig
    budgets: list[str]
    seeds: list[int]


@dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Attributes:
        label: The row it belongs to.
        length: Its length's name.
        config: All its options.
    """

    label: str
    length: str
    config: RunConfig

    @property
    def as_run(self) -> RunConfig:
        """Returns the options as those of a run; the dense model, which is not searched, has those of any method."""
        return replace(self.config, method="l1") if self.config.method == DENSE else self.config

    @property
    def name(self) -> str:
        """Returns the name of its result file, without the suffix."""
        label, budget = (re.sub(r"[^a-z0-9.+]+", "_", text.lower()) for text in (self.label, self.config.budget))
        return f"{label.strip('_')}-{budget}-{self.length}-seed{self.config.seed}"


def runs_of(entries: Sequence[Entry], seeds: Sequence[int], budgets: Sequence[str], length: str) -> Iterator[Trial]:
    """Yields the runs, all entries at one seed and budget before the next, so that early tables are whole ones."""
    for seed in seeds:
        for budget in budgets:
            for entry in entries:
                if seed in entry.seeds and budget in entry.budgets:
                    yield Trial(entry.label, length, replace(entry.config, budget=budget, seed=seed))
