"""The comparison: every method from the same dense weights to the same budget with the same training.

    study = read_study("benchmarks/cifar10_deit_tiny.yaml")
    run_study(study, study.trials(), command="python mine.py")
    write_comparison(read_results(Path(study.config.output)), Path("report"))

What is public loads on first use.
"""

from typing import TYPE_CHECKING

from xpruner._lazy import lazily

_HOMES = {
    "Entry": "compare.study",
    "Study": "compare.study",
    "StudyConfig": "compare.study",
    "Trial": "compare.study",
    "read_study": "compare.study",
    "run_study": "compare.studies",
    "read_results": "compare.results",
    "rows_of": "compare.tables",
    "write_comparison": "compare.markdown",
}

__all__ = [
    "Entry",
    "Study",
    "StudyConfig",
    "Trial",
    "read_results",
    "read_study",
    "rows_of",
    "run_study",
    "write_comparison",
]

if TYPE_CHECKING:
    from xpruner.compare.markdown import write_comparison
    from xpruner.compare.results import read_results
    from xpruner.compare.studies import run_study
    from xpruner.compare.study import Entry, Study, StudyConfig, Trial, read_study
    from xpruner.compare.tables import rows_of

__getattr__, __dir__ = lazily(__name__, _HOMES)
