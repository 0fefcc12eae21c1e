"""Runs the trials of a study."""

from collections.abc import Callable, Sequence
from pathlib import Path

from xpruner.compare.compare import compare
from xpruner.compare.study import Study, Trial


def run_study(study: Study, trials: Sequence[Trial], command: str, on_result: Callable[[], None] | None = None) -> None:
    """Executes every trial whose result is not in the study's output folder yet.

    A killed call resumes when it is repeated; the same call in several programs shares the trials among them.

    Args:
        study: A study.
        trials: Some of its trials, in the order of execution.
        command: The command that makes the results, noted in each.
        on_result: Called after every new result.

    Raises:
        UsageError: If an existing result was made with another configuration.
        XPrunerError: At the end, if trials have failed; all others are done.
    """
    work = Path(study.config.work)
    work.mkdir(parents=True, exist_ok=True)
    about = {"title": study.config.title, "note": study.config.note, "command": command}
    compare(trials, Path(study.config.output), work, about, on_result)
