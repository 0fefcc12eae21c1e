"""``xpruner report compare FOLDER``: the tables and plots of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xpruner.cli.options import parse, take
from xpruner.errors import UsageError, unknown

REPORTS = ("compare",)


@dataclass
class ReportOptions:
    """How to write a report.

    Attributes:
        output: Folder to write into, the folder ``report`` in that of the results when absent.
    """

    output: str | None = None


def run(arguments: Sequence[str]) -> None:
    """Writes the report and prints where it lies.

    Raises:
        UsageError: If what to report on is not said, or is not there.
        XPrunerError: If a result cannot be read or the page cannot be written.
    """
    outputs, rest = take("--output", arguments)
    words = [argument for argument in rest if not argument.startswith("-")]
    flags = [argument for argument in rest if argument.startswith("-")]
    parse("report", ReportOptions(), flags)
    if len(words) != 2:
        raise UsageError("Say what to report on: `xpruner report compare FOLDER`, with the folder of the results.")
    if words[0] not in REPORTS:
        raise unknown("report", words[0], REPORTS)
    from xpruner.cli.console import show
    from xpruner.compare.report import write_report
    from xpruner.compare.results import read_results

    folder = Path(words[1])
    page = write_report(read_results(folder), Path(outputs[-1]) if outputs else folder / "report")
    show(f"The report is {page}.")
