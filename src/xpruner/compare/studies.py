"""Runs the trials of a study."""

from collections.abc import Callable, Sequence
from pathlib import Path

from xpruner.compare.compare import compare
from xpruner.compare.study import Study, Trial


def run_study(study: Study, trials: Sequence[Trial], command: str, on_result: Callable[[], None] | None = None) -> None:
    """Does every trial whose result is not in the study's output folder yet.

    Killed at any moment, the same call continues from there; the same call in several programs shares the trials.

    Args:
        study: A study.
        trials: Some of its trials, in the order to do them.
        command: What makes the results, to be noted in each.
        on_result: Called after every new result.

    Raises:
        UsageError: If a result that is there was made with another configuration.
        XPrunerError: At the end, if trials have failed; all others are done.
    """
    work = Path(study.config.work)
    work.mkdir(parents=True, exist_ok=True)
    about = {"title": study.config.title, "note": study.config.note, "command": command}
    compare(trials, Path(study.config.output), work, about, on_result)
