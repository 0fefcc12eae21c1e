"""A study: which trials a comparison consists of, read from a YAML file."""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xpruner.config import RunConfig, preset
from xpruner.config.settings import dotted, load_yaml, overlaid
from xpruner.errors import UsageError, unknown

DENSE = "dense"
"""The method that removes nothing: the dense model, given the same extra fine-tuning."""


@dataclass
class StudyConfig:
    """What the YAML file of a study holds.

    Attributes:
        title: Above the tables.
        note: What a reader of the tables must know, such as which images these are.
        output: Folder of the results, one JSON a trial.
        work: Folder of the state that unfinished trials need to resume.
        budgets: What the pruned models may cost.
        seeds: Of every trial, unless its entry has its own.
        length: Which of the ``lengths`` to run.
        lengths: Options of a trial by the name of a length, such as the steps of search and of fine-tuning.
        base: Options of all trials.
        entries: For each row of the tables its own options, with ``seeds`` and ``budgets`` where they differ, and
            ``lengths`` where an entry needs other options at one of them.
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
        config: Its options; budget and seed are set trial by trial.
        budgets: To run it at.
        seeds: To run it with.
    """

    label: str
    config: RunConfig
    budgets: list[str]
    seeds: list[int]


@dataclass(frozen=True)
class Trial:
    """One run of a study.

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


@dataclass(frozen=True)
class Study:
    """A comparison of methods, each at the same budgets and seeds.

    Attributes:
        config: What its file holds.
        path: Of that file, for messages.
    """

    config: StudyConfig
    path: str

    def entries(self, length: str | None = None, labels: Sequence[str] = ()) -> list[Entry]:
        """Returns the rows of the tables with all their options.

        Args:
            length: Of their trials; the file's own choice when absent.
            labels: Of the rows, or beginnings of labels; all when empty. A complete label means that row alone, even
                where other labels begin with it.

        Raises:
            UsageError: If the length, a label or an option is unknown.
        """
        length, offered = length or self.config.length, self.config.entries
        if length not in self.config.lengths:
            raise unknown(f"length in {self.path}:", length, self.config.lengths)
        for start in labels:
            if not any(label.startswith(start) for label in offered):
                raise unknown(f"entry in {self.path}:", start, offered)
        starts = tuple(start for start in labels if start not in offered)
        chosen = [label for label in offered if not labels or label in labels or label.startswith(starts)]
        return [self._entry(label, length) for label in chosen]

    def trials(
        self,
        length: str | None = None,
        labels: Sequence[str] = (),
        budgets: Sequence[str] = (),
        seeds: Sequence[int] = (),
    ) -> list[Trial]:
        """Returns the trials, after every check that needs neither model nor images.

        Args:
            length: Of the trials; the file's own choice when absent.
            labels: Of the rows, or beginnings of labels; all when empty.
            budgets: Some of the file's; all when empty.
            seeds: Some of the file's; all when empty.

        Raises:
            UsageError: If there is no such trial, two have the same name, or an option is unknown or out of range.
        """
        from xpruner.run.setup import check_options

        length = length or self.config.length
        budgets, seeds = budgets or self.config.budgets, seeds or self.config.seeds
        trials = list(trials_of(self.entries(length, labels), seeds, budgets, length))
        if not trials:
            raise UsageError(
                f"No trial of {self.path} has a budget of {', '.join(budgets)} and a seed of "
                f"{', '.join(map(str, seeds))}; ask for some that the file has."
            )
        names = [trial.name for trial in trials]
        for trial in trials:
            check_options(trial.as_run)
            if names.count(trial.name) > 1:
                raise UsageError(f"Two entries of {self.path} make trials called {trial.name}; give them other labels.")
        return trials

    def _entry(self, label: str, length: str) -> Entry:
        from xpruner.methods import find_method

        given, place = self.config.entries[label], f"{self.path}, {label!r}"
        own = copy.deepcopy({} if given is None else given)
        if not isinstance(own, dict):
            raise UsageError(f"{place} is {own!r}; it must hold options, such as {{method: l2}}.")
        budgets = [str(budget) for budget in _listed(own.pop("budgets", self.config.budgets), f"budgets of {place}")]
        seeds = _listed(own.pop("seeds", self.config.seeds), f"seeds of {place}")
        of_length = own.pop("lengths", {}).get(length, {})
        layers = [
            dotted(tree, RunConfig, place) for tree in (self.config.base, self.config.lengths[length], own, of_length)
        ]
        settings = {key: value for layer in layers for key, value in layer.items()}
        config = overlaid(preset(settings.get("preset", "default")), settings, place)
        if config.method != DENSE:
            find_method(config.method)  # fail early on an unknown name
        return Entry(label, config, budgets, seeds)


def read_study(path: str) -> Study:
    """Returns the study in a YAML file.

    Raises:
        UsageError: If it cannot be read, or a key is unknown or has the wrong type.
    """
    return Study(overlaid(StudyConfig(), dotted(load_yaml(path), StudyConfig, path), path), path)


def trials_of(entries: Sequence[Entry], seeds: Sequence[int], budgets: Sequence[str], length: str) -> Iterator[Trial]:
    """Yields the trials, all entries at one seed and budget before the next, so that early tables are complete."""
    for seed in seeds:
        for budget in budgets:
            for entry in entries:
                if seed in entry.seeds and budget in entry.budgets:
                    yield Trial(entry.label, length, replace(entry.config, budget=budget, seed=seed))


def _listed(value: Any, what: str) -> list:
    if not isinstance(value, list):
        raise UsageError(f"The {what} are {value!r}; write a list, such as [{value}].")
    return value
