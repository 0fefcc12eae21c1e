"""Tables of a comparison: mean and spread over the seeds of every row."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from xpruner.plan.budget import Budget

ACCURACY_STAGES = {"cut": "cut", "found": "as found", "compensated": "compensated", "finetuned": "fine-tuned"}
"""Titles of the stages whose accuracy the tables show."""


@dataclass(frozen=True)
class Row:
    """All results of one entry at one budget and length.

    Attributes:
        label: The entry.
        budget: As asked.
        length: Its name.
        results: One for each seed.
    """

    label: str
    budget: str
    length: str
    results: tuple[dict[str, Any], ...]

    def values(self, stage: str, what: str = "top1") -> list[float]:
        """Returns a figure of a stage for each seed that has it."""
        stages = [result["stages"].get(stage, {}) for result in self.results]
        return [figures[what] for figures in stages if what in figures]

    def percent(self, stage: str, what: str = "top1") -> str:
        """Returns mean and sample standard deviation in percent, or a dash where there is no value."""
        values = [100 * value for value in self.values(stage, what)]
        if not values:
            return "–"
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{spread}"

    def mean(self, stage: str, what: str) -> float | None:
        """Returns the mean of a figure, or None where there is none; times of runs that were resumed do not count."""
        results = [result for result in self.results if "seconds" not in what or not result.get("resumed")]
        values = Row(self.label, self.budget, self.length, tuple(results)).values(stage, what)
        return statistics.mean(values) if values else None

    @property
    def amount(self) -> float:
        """The budget as a number."""
        return Budget.parse(self.budget).amount

    @property
    def precisions(self) -> set[str]:
        """The precisions in which its results were made."""
        return {result["config"]["precision"] for result in self.results}

    @property
    def last(self) -> str:
        """The last stage that was measured."""
        return [stage for stage in ("dense", *ACCURACY_STAGES) if self.values(stage)][-1]


def rows_of(results: Sequence[dict[str, Any]]) -> list[Row]:
    """Groups results by entry, budget and length: the larger budget first, the best first in each."""
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        grouped.setdefault((result["label"], result["config"]["budget"], result["length"]), []).append(result)
    rows = [Row(*key, tuple(found)) for key, found in grouped.items()]
    return sorted(rows, key=lambda row: (row.length, -row.amount, -(row.mean(row.last, "top1") or 0.0)))


def precision_cells(rows: Sequence[Row]) -> list[str]:
    """Returns for each row the precisions of its results; dashes where they are the same in all of a table."""
    alike = len(set().union(*(row.precisions for row in rows))) == 1
    return ["–" if alike else ", ".join(sorted(row.precisions)) for row in rows]


def progress_table(results: Sequence[dict[str, Any]], title: str) -> Table:
    """Returns the table that is shown while a comparison runs."""
    table = Table(title=title, box=box.SIMPLE_HEAD)
    rows = rows_of(results)
    precisions = precision_cells(rows)
    mixed = set(precisions) != {"–"}
    table.add_column("")
    for name in ("MACs", "seeds", *ACCURACY_STAGES.values(), *["precision"] * mixed):
        table.add_column(name, justify="right")
    for row, precision in zip(rows, precisions, strict=True):
        percents = (row.percent(stage) for stage in ACCURACY_STAGES)
        table.add_row(row.label, row.budget, str(len(row.results)), *percents, *[precision] * mixed)
    return table
