"""``xpruner compare``: every run of a comparison that is not done yet, and a table of all that are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpruner.cli.options import dotted, load_yaml, parse
from xpruner.compare.plan_of_runs import DENSE, CompareConfig, Entry, runs_of
from xpruner.config import RunConfig, preset
from xpruner.errors import UsageError, unknown


@dataclass
class CompareOptions:
    """Which comparison, and which part of it.

    Attributes:
        config: The YAML file that says it; see benchmarks/ for some.
        length: Which of its lengths to run; the file's own choice when absent.
        entries: Beginnings of the labels of the rows to run, with semicolons between; all when empty.
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
    runs = list(runs_of(entries, _seeds(options.seeds, asked), _parts(options.budgets) or asked.budgets, length))
    from xpruner.cli.console import show, showing_log, tracing
    from xpruner.compare.compare import compare
    from xpruner.compare.results import read_results
    from xpruner.compare.tables import overview

    Path(asked.work).mkdir(parents=True, exist_ok=True)
    names = {run.name for run in runs}

    def show_table(_result: dict[str, Any]) -> None:
        done = sum((Path(asked.output) / f"{name}.json").exists() for name in names)
        show(overview(read_results(Path(asked.output)), f"{asked.title}: {done} of {len(runs)} runs"))

    command = f"xpruner compare --config {options.config} --length {length}"
    about = {"title": asked.title, "note": asked.note, "command": command}
    with showing_log(), tracing(asked.work):
        compare(runs, Path(asked.output), Path(asked.work), about, show_table)
    show_table({})


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


def chosen_entries(asked: CompareConfig, length: str, wanted: Sequence[str], path: str) -> list[Entry]:
    """Returns the entries of a comparison with all their options, those whose labels begin as wanted.

    Raises:
        UsageError: If the length, a label or an option is unknown.
    """
    if length not in asked.lengths:
        raise unknown(f"length in {path}:", length, asked.lengths)
    for start in wanted:
        if not any(label.startswith(start) for label in asked.entries):
            raise unknown(f"entry in {path}:", start, asked.entries)
    return [
        _entry(asked, label, dict(own or {}), asked.lengths[length], path)
        for label, own in asked.entries.items()
        if not wanted or label.startswith(tuple(wanted))
    ]


def _entry(asked: CompareConfig, label: str, own: dict[str, Any], length: dict[str, Any], path: str) -> Entry:
    from xpruner.methods import find_method

    budgets, seeds = (own.pop(name, getattr(asked, name)) for name in ("budgets", "seeds"))
    layers = [dotted(tree, RunConfig, f"{path}, {label!r}") for tree in (asked.base, length, own)]
    settings = {key: value for layer in layers for key, value in layer.items()}
    config = parse("compare", preset(settings.get("preset", "default")), [], settings)
    if "units" not in settings and config.method != DENSE:
        config.units = list(find_method(config.method).kinds)
    return Entry(label, config, [str(budget) for budget in budgets], list(seeds))
