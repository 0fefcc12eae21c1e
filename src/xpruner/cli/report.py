"""``xpruner report RUN``: one page about a finished run; ``xpruner report compare FOLDER``: tables of a comparison."""

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
        output: Of a run, the HTML file to write, ``report.html`` in the run directory when absent; of a comparison,
            the folder to write into, ``report`` in that of the results when absent.
        maps: Of a run, the method of the explanation maps, such as ``gradcam``.
    """

    output: str | None = None
    maps: str = "relevance"


def run(arguments: Sequence[str]) -> None:
    """Writes the report and prints where it lies.

    Raises:
        UsageError: If what to report on is not said, or is not there.
        XPrunerError: If a result cannot be read or the page cannot be written.
    """
    outputs, rest = take("--output", arguments)
    methods, rest = take("--maps", rest)
    words = [argument for argument in rest if not argument.startswith("-")]
    flags = [argument for argument in rest if argument.startswith("-")]
    flags += [f"--output={value}" for value in outputs] + [f"--maps={value}" for value in methods]
    options = parse("report", ReportOptions(), flags)
    if len(words) == 2 and words[0] not in REPORTS:
        raise unknown("report", words[0], REPORTS)
    if len(words) == 2:
        page = _of_comparison(Path(words[1]), options)
    elif len(words) == 1 and words[0] not in REPORTS:
        page = _of_run(words[0], options)
    else:
        raise UsageError(
            "Say what to report on: `xpruner report RUN`, with a run directory, or `xpruner report compare FOLDER`, "
            "with the folder of the results."
        )
    from xpruner.cli.console import show

    show(f"The report is {page}.")


def _of_comparison(folder: Path, options: ReportOptions) -> Path:
    from xpruner.compare.report import write_report
    from xpruner.compare.results import read_results

    return write_report(read_results(folder), Path(options.output or folder / "report"))


def _of_run(folder: str, options: ReportOptions) -> Path:
    from xpruner.cli.console import showing_log
    from xpruner.explain.finished import open_run
    from xpruner.report.page import write_report

    run = open_run(folder)
    with showing_log():
        return write_report(run, Path(options.output or run.folder / "report.html"), options.maps)
