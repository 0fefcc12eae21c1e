"""Does the runs of a comparison that are not done yet."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from xpruner.compare.plan_of_runs import RunOfMany
from xpruner.compare.protocol import Bench, run_one, set_up
from xpruner.compare.results import agreed, claimed, provenance, write_result

log = logging.getLogger("xpruner")


def compare(
    runs: Iterable[RunOfMany],
    output: Path,
    work: Path,
    about: dict[str, Any],
    on_result: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Does every run whose result is not there yet; killed at any moment, the same call goes on from there.

    The same call in several programs shares the runs among them; the processes of one launch do each run together.

    Args:
        runs: In the order to do them.
        output: Folder of the results.
        work: Folder of what unfinished runs need to go on.
        about: What to write into every result: the ``title`` and ``note`` of the comparison and its ``command``.
        on_result: Called with every new result.

    Raises:
        UsageError: If a run cannot be met.
        XPrunerError: If one fails; those before it are kept.
    """
    made_by = provenance()  # of the code that is loaded now
    bench: Bench | None = None
    shared: Any = None
    for run in runs:
        with claimed(work / f"{run.name}.lock") as mine:
            if not agreed(mine and not (output / f"{run.name}.json").exists()):
                continue
            log.info("%s", run.name)
            needs = (run.config.model, run.config.data, run.config.seed, run.config.precision)
            if bench is None or needs != shared:
                bench, shared = set_up(run.config), needs
            result = {**about, **made_by, **run_one(bench, run, work / run.name)}
            write_result(output, run.name, result)
        if on_result:
            on_result(result)
