"""``xpruner report RUN``: one page about a finished run; ``xpruner report compare FOLDER``: tables of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xpruner.cli.options import as_run, parse, words_and_flags
from xpruner.config.settings import fields_of
from xpruner.errors import UsageError, unknown

COMPARISON = "compare"
ABOUT = """\
xpruner report RUN             writes one HTML page about the finished run in the folder RUN
xpruner report compare FOLDER  makes tables and plots of a comparison, whose results are in FOLDER

Both need the extra `report`: pip install 'xpruner[report]'."""
WAYS = (
    "Name what to report on: `xpruner report RUN`, with a run directory, or `xpruner report compare FOLDER`, "
    "with the folder of the results."
)


@dataclass
class ReportOptions:
    """How to write the page about a run.

    Attributes:
        run: The run directory, the ``--output`` of an ``xpruner prune``; may stand without ``--run``.
        output: The HTML file to write; ``report.html`` in the run directory when absent.
        maps: The method of the explanation maps, such as ``gradcam``.
        map_images: Numbers of the run's images to show maps of, as the audit counts them, such as ``17,240``; some are
            chosen when absent.
    """

    run: str | None = None
    output: str | None = None
    maps: str = "relevance"
    map_images: list[str] = field(default_factory=list)


@dataclass
class ComparisonOptions:
    """Where to write what is made of a comparison.

    Attributes:
        output: The folder to write into; ``report`` in that of the results when absent.
    """

    output: str | None = None


def run(arguments: Sequence[str]) -> None:
    """Writes the report and prints where it lies.

    Raises:
        UsageError: If what to report on is not given, or is not there.
        XPrunerError: If a result cannot be read or the page cannot be written.
    """
    words, flags = words_and_flags(arguments, fields_of(ReportOptions))
    page = _of_comparison(words[1:], flags) if words[:1] == [COMPARISON] else _of_run(words, flags)
    from xpruner.cli.console import show

    show(f"The report is {page}.")


def _of_comparison(words: Sequence[str], flags: Sequence[str]) -> Path:
    options = parse("report compare", ComparisonOptions(), flags, words="FOLDER", about=ABOUT)
    if len(words) != 1:
        raise UsageError(WAYS)
    from xpruner.compare.markdown import write_comparison
    from xpruner.compare.results import read_results

    folder = Path(words[0])
    return write_comparison(read_results(folder), Path(options.output or folder / "report"))


def _of_run(words: Sequence[str], flags: Sequence[str]) -> Path:
    if len(words) == 2:
        raise unknown("report", words[0], [COMPARISON])
    options = parse("report", ReportOptions(), [*flags, *as_run("report", words, flags)], words="RUN", about=ABOUT)
    if options.run is None:
        raise UsageError(WAYS)
    from xpruner.cli.console import showing_log
    from xpruner.maps import find_map
    from xpruner.report.page import write_report
    from xpruner.run.finished import open_run

    find_map(options.maps)  # fail early on an unknown name
    images = _numbers(options.map_images) or None
    run = open_run(options.run)
    with showing_log():
        return write_report(run, Path(options.output or run.folder / "report.html"), options.maps, images)


def _numbers(words: Sequence[str]) -> list[int]:
    for word in words:
        if not word.isdecimal():
            raise UsageError(f"--map_images is {word!r}, but takes numbers of the run's images, such as 17,240.")
    return [int(word) for word in words]
