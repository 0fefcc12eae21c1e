"""``xpruner compare``: every run of a comparison that is not done yet, and a table of all that are."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpruner.cli.options import dotted, load_yaml, parse
from xpruner.compare.study import DENSE, CompareConfig, Entry, Trial, runs_of
from xpruner.config import RunConfig, preset
from xpruner.errors import UsageError, unknown


@dataclass
class CompareOptions:
    """Which comparison, and which part of it.

    Attributes:
        config: The YAML file that says it; see benchmarks/ for some.
        length: Which of its lengths to run; the file's own choice when absent.
        entries: Labels of the rows to run, or beginnings of labels, with semicolons between; all when empty.
        budgets: To run, with semicolons between; all of the file's when empty.
        seeds: To run, with semicolons between; all of the file's when empty.
    """

    config: str = ""
    length: str | None = None
    entries: str = ""
    budgets: str = ""
    seeds: str = ""


def run(arguments: Sequence[str]) -> None:
    """Does the runs, prints the table after each, and goes on where it was stopped when called again.

    Raises:
        UsageError: If the file or a run in it cannot be met.
        XPrunerError: If a run fails; those before it are kept.
    """
    options = parse("compare", CompareOptions(), arguments)
    if not options.config:
        raise UsageError("No comparison is given; name its file, such as --config benchmarks/cifar10_deit_tiny.yaml.")
    asked = read_comparison(options.config)
    length = options.length or asked.length
    entries = chosen_entries(asked, length, _parts(options.entries), options.config)
    runs = checked_runs(
        entries, _seeds(options.seeds, asked), _parts(options.budgets) or asked.budgets, length, options.config
    )
    from xpruner.cli.console import show, showing_log, tracing
    from xpruner.compare.compare import compare
    from xpruner.compare.results import read_results
    from xpruner.compare.tables import overview

    Path(asked.work).mkdir(parents=True, exist_ok=True)

    def show_table() -> None:
        done = sum((Path(asked.output) / f"{run.name}.json").exists() for run in runs)
        if done:
            show(overview(read_results(Path(asked.output)), f"{asked.title}: {done} of {len(runs)} runs"))

    command = f"xpruner compare --config {options.config} --length {length}"
    about = {"title": asked.title, "note": asked.note, "command": command}
    with showing_log(), tracing(asked.work):
        compare(runs, Path(asked.output), Path(asked.work), about, show_table)
    show_table()


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _seeds(text: str, asked: CompareConfig) -> list[int]:
    try:
        return [int(part) for part in _parts(text)] or asked.seeds
    except ValueError as error:
        raise UsageError(
            f"The seeds are {text!r}; write whole numbers with semicolons between, such as 0;1."
        ) from error


def read_comparison(path: str) -> CompareConfig:
    """Returns the comparison in a YAML file.

    Raises:
        UsageError: If it cannot be read, or a key is unknown or has the wrong type.
    """
    return parse("compare", CompareConfig(), [], dotted(load_yaml(path), CompareConfig, path))


def checked_runs(
    entries: Sequence[Entry], seeds: Sequence[int], budgets: Sequence[str], length: str, path: str
) -> list[Trial]:
    """Returns the runs, after what can be known to be wrong with one before any is done.

    Raises:
        UsageError: If there is none, two have the same name, or a budget or recipe is out of range.
    """
    from xpruner.run.setup import check_options

    runs = list(runs_of(entries, seeds, budgets, length))
    if not runs:
        raise UsageError(
            f"No run of {path} has a budget of {', '.join(budgets)} and a seed of {', '.join(map(str, seeds))}; ask "
            "for some that the file has."
        )
    names = [run.name for run in runs]
    for run in runs:
        check_options(run.as_run)
        if names.count(run.name) > 1:
            raise UsageError(f"Two entries of {path} make runs called {run.name}; give them other labels.")
    return runs


def chosen_entries(asked: CompareConfig, length: str, wanted: Sequence[str], path: str) -> list[Entry]:
    """Returns the entries of a comparison with all their options, those whose labels begin as wanted.

    What is a whole label means that entry alone, even where others begin so.

    Raises:
        UsageError: If the length, a label or an option is unknown.
    """
    if length not in asked.lengths:
        raise unknown(f"length in {path}:", length, asked.lengths)
    for start in wanted:
        if not any(label.startswith(start) for label in asked.entries):
            raise unknown(f"entry in {path}:", start, asked.entries)
    starts = tuple(start for start in wanted if start not in asked.entries)
    return [
        _entry(asked, label, copy.deepcopy({} if own is None else own), length, path)
        for label, own in asked.entries.items()
        if not wanted or label in wanted or label.startswith(starts)
    ]


def _entry(asked: CompareConfig, label: str, own: Any, length: str, path: str) -> Entry:
    from xpruner.methods import find_method

    place = f"{path}, {label!r}"
    if not isinstance(own, dict):
        raise UsageError(f"{place} is {own!r}; it must hold options, such as {{method: l2}}.")
    budgets = [str(budget) for budget in _listed(own.pop("budgets", asked.budgets), f"budgets of {place}")]
    seeds = _listed(own.pop("seeds", asked.seeds), f"seeds of {place}")
    per_length = own.pop("lengths", {}).get(length, {})
    trees = (asked.base, asked.lengths[length], own, per_length)
    layers = [dotted(tree, RunConfig, place) for tree in trees]
    settings = {key: value for layer in layers for key, value in layer.items()}
    config = parse("compare", preset(settings.get("preset", "default")), [], settings)
    if config.method != DENSE:
        find_method(config.method)  # an unknown name is told before anything is done
    return Entry(label, config, budgets, seeds)


def _listed(value: Any, what: str) -> list:
    if not isinstance(value, list):
        raise UsageError(f"The {what} are {value!r}; write a list, such as [{value}].")
    return value
