"""Does the trials of a study that are not done yet."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from xpruner.compare.protocol import Reference, run_one, set_up
from xpruner.compare.results import begin, check_identity, is_done, provenance, write_result
from xpruner.compare.study import Study, Trial
from xpruner.errors import UsageError, XPrunerError
from xpruner.run.identity import Identity, in_short
from xpruner.run.locks import claimed

log = logging.getLogger("xpruner")


def run_study(study: Study, trials: Sequence[Trial], command: str, on_result: Callable[[], None] | None = None) -> None:
    """Does every trial whose result is not in the study's output folder yet.

    Killed at any moment, the same call continues from there; the same call in several programs shares the trials. A
    trial that fails does not keep the others from being done; the next call tries it again.

    Args:
        study: A study.
        trials: Some of its trials, in the order to do them.
        command: What makes the results, to be noted in each.
        on_result: Called after every new result.

    Raises:
        UsageError: If a result that is there was made with another configuration, or several processes do one trial.
        XPrunerError: At the end, if trials have failed; all others are done.
    """
    if PartialState().num_processes > 1:
        raise UsageError("A comparison runs in one process a GPU; start the same command once for each GPU instead.")
    output, work = Path(study.config.output), Path(study.config.work)
    todo = [trial for trial in trials if not is_done(output / f"{trial.name}.json", trial.config)]
    about = {"title": study.config.title, "note": study.config.note, "command": command}
    about |= provenance()  # of the code that is loaded now
    newest = _Newest(output)
    failed: list[str] = []
    for trial in todo:
        with claimed(work / f"{trial.name}.lock") as mine:
            path, folder = output / f"{trial.name}.json", work / trial.name
            if not mine or is_done(path, trial.config):
                continue
            log.info("%s", trial.name)
            try:
                trial = replace(trial, config=begin(folder, trial.config))
                reference = newest.reference(trial)
                write_result(path, {**about, "identity": newest.identity, **run_one(reference, trial, folder)})
            except XPrunerError as error:
                log.warning("%s failed: %s", trial.name, error)
                failed.append(f"{trial.name} ({error})")
                continue
            shutil.rmtree(folder, ignore_errors=True)
        if on_result:
            on_result()
    if failed:
        raise XPrunerError(f"{len(failed)} of {len(trials)} trials failed, the others are done: {'; '.join(failed)}")


class _Newest:
    """The reference of the newest trial, kept for the next one that needs the same.

    Args:
        results: Folder of the results, which have to be of the same model and images.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self.identity: Identity = {}
        self._needs: Any = None

    def reference(self, trial: Trial) -> Reference:
        """Returns the dense model and the images of a trial.

        Raises:
            UsageError: If they cannot be had, or there are results of others under the same options.
        """
        needs = (trial.config.model, trial.config.data, trial.config.seed, trial.config.precision)
        if needs != self._needs:
            self._reference, self._needs = set_up(trial), needs
            self.identity = in_short(self._reference.setup.identity())
            check_identity(self.results, trial.config, self.identity)
        return self._reference
