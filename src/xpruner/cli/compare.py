"""``xpruner compare``: every trial of a study that is not done yet, and a table of all that are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xpruner.cli.options import parse
from xpruner.errors import UsageError


@dataclass
class CompareOptions:
    """Which study, and which part of it.

    Attributes:
        config: The YAML file of the study; see benchmarks/ for some.
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
    """Does the trials and prints the table after each; called again, it continues where it was stopped.

    Raises:
        UsageError: If the file is wrong, or a trial in it cannot be met.
        XPrunerError: If trials fail; the others are done.
    """
    options = parse("compare", CompareOptions(), arguments)
    if not options.config:
        raise UsageError("No comparison is given; name its file, such as --config benchmarks/cifar10_deit_tiny.yaml.")
    from xpruner.compare.study import read_study

    study = read_study(options.config)
    trials = study.trials(
        options.length, _parts(options.entries), _parts(options.budgets), _seeds(_parts(options.seeds))
    )
    from xpruner.cli.console import show, showing_log, tracing
    from xpruner.compare.results import read_results
    from xpruner.compare.studies import run_study
    from xpruner.compare.tables import progress_table

    output = Path(study.config.output)

    def show_table() -> None:
        done = sum((output / f"{trial.name}.json").exists() for trial in trials)
        if done:
            show(progress_table(read_results(output), f"{study.config.title}: {done} of {len(trials)} trials"))

    command = f"xpruner compare --config {options.config} --length {options.length or study.config.length}"
    with showing_log(), tracing(study.config.work):
        run_study(study, trials, command, show_table)
    show_table()


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _seeds(parts: Sequence[str]) -> list[int]:
    try:
        return [int(part) for part in parts]
    except ValueError as error:
        raise UsageError(
            f"The seeds are {';'.join(parts)!r}; write whole numbers with semicolons between, such as 0;1."
        ) from error
