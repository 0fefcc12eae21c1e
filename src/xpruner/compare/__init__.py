"""The comparison: every method from the same dense weights to the same budget with the same training.

    study = read_study("benchmarks/cifar10_deit_tiny.yaml")
    run_study(study, study.trials(), command="python mine.py")
    write_comparison(read_results(Path(study.config.output)), Path("report"))

What is public loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Entry": "study",
    "Study": "study",
    "StudyConfig": "study",
    "Trial": "study",
    "read_study": "study",
    "run_study": "studies",
    "read_results": "results",
    "rows_of": "tables",
    "write_comparison": "markdown",
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


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"xpruner.compare.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
