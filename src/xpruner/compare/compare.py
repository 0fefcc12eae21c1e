"""Executes the runs of a comparison that have no result yet."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from xpruner.compare.protocol import Reference, run_one, set_up
from xpruner.compare.results import begin, check_identity, is_done, provenance, write_result
from xpruner.compare.study import Trial
from xpruner.errors import UsageError, XPrunerError
from xpruner.run.identity import Identity, in_short
from xpruner.run.locks import claimed

log = logging.getLogger("xpruner")


def compare(
    runs: Sequence[Trial],
    output: Path,
    work: Path,
    about: dict[str, Any],
    on_result: Callable[[], None] | None = None,
) -> None:
    """Executes every run that has no result yet; a killed call resumes when it is repeated.

    The same call in several programs shares the runs among them. A failed run does not stop the others; the next call
    tries it again.

    Args:
        runs: In the order of execution.
        output: Folder of the results.
        work: Folder of the state that unfinished runs need to resume.
        about: What to write into every result: the ``title`` and ``note`` of the comparison and its ``command``.
        on_result: Called after every new result.

    Raises:
        UsageError: If an existing result was made with another configuration, or the call runs in several processes.
        XPrunerError: At the end, if runs have failed; all others are done.
    """
    if PartialState().num_processes > 1:
        raise UsageError("A comparison runs in one process a GPU; start the same command once for each GPU instead.")
    todo = [run for run in runs if not is_done(output / f"{run.name}.json", run.config)]
    about = {**about, **provenance()}  # of the code that is loaded now
    newest = _Newest(output)
    failed: list[str] = []
    for run in todo:
        with claimed(work / f"{run.name}.lock") as mine:
            path, folder = output / f"{run.name}.json", work / run.name
            if not mine or is_done(path, run.config):
                continue
            log.info("%s", run.name)
            try:
                run = replace(run, config=begin(folder, run.config))
                reference = newest.reference(run)
                write_result(path, {**about, "identity": newest.identity, **run_one(reference, run, folder)})
            except XPrunerError as error:
                log.warning("%s failed: %s", run.name, error)
                failed.append(f"{run.name} ({error})")
                continue
            shutil.rmtree(folder, ignore_errors=True)
        if on_result:
            on_result()
    if failed:
        raise XPrunerError(f"{len(failed)} of {len(runs)} runs failed, the others are done: {'; '.join(failed)}")


class _Newest:
    """The reference of the newest trial, kept for the next one that needs the same.

    Args:
        results: Folder of the results, which must be of the same model and images.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self.identity: Identity = {}
        self._needs: Any = None

    def reference(self, trial: Trial) -> Reference:
        """Returns the dense model and the images of a trial.

        Raises:
            UsageError: If they cannot be loaded, or results of another model or other images exist under the same
                options.
        """
        needs = (trial.config.model, trial.config.data, trial.config.seed, trial.config.precision)
        if needs != self._needs:
            self._reference, self._needs = set_up(trial), needs
            self.identity = in_short(self._reference.setup.identity())
            check_identity(self.results, trial.config, self.identity)
        return self._reference
