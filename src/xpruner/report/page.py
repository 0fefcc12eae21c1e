"""The page itself: a template that lays out what was gathered, in one file that needs no other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpruner.errors import require
from xpruner.files import write_text
from xpruner.report.contents import Contents, gather
from xpruner.report.figures import curve_figures, drop_figure, importance_figure, keep_figure, mask_figures, signed
from xpruner.run.finished import FinishedRun
from xpruner.text import printable, printable_lines

TEMPLATE = "template.html.jinja"
PURPOSE = "write a report"


def write_report(
    run: FinishedRun, path: Path, maps_method: str = "relevance", images: Sequence[int] | None = None
) -> Path:
    """Writes the page about a run, whole or not at all, and returns its path.

    Args:
        run: A finished run.
        path: Of the page.
        maps_method: Of the explanation maps, one of :func:`xpruner.maps.list_maps`.
        images: Numbers of the images whose maps are shown; absent, some are chosen.

    Raises:
        UsageError: If plotly or jinja2 is not installed, the run is not finished, the method is unknown, or the run has
            no such image.
        XPrunerError: If a file of the run is damaged, or the page cannot be written.
    """
    template, script = _template(), _plotly_script()  # what is missing is known before anything is computed
    write_text(path, _rendered(template, script, gather(run, maps_method, images)))
    return path


def page(contents: Contents) -> str:
    """Returns the page as HTML, the same for the same contents.

    Raises:
        UsageError: If plotly or jinja2 is not installed.
    """
    return _rendered(_template(), _plotly_script(), contents)


def _rendered(template: Any, script: str, contents: Contents) -> str:
    from markupsafe import Markup

    masks = mask_figures(contents)
    drawn = [keep_figure(contents), importance_figure(contents), drop_figure(contents), *curve_figures(contents)]
    figures = {figure.name: figure for figure in [*masks[:1], *drawn] if figure is not None}
    return template.render(
        contents=contents,
        plotly=Markup(script),
        figures=figures,
        masks=masks,
        plots={name: figure.plot for name, figure in figures.items()} | {m.name: m.plot for m in masks},
        guarded=_guarded(contents),
        configuration=Markup.escape(printable_lines(contents.config)),
        signed=signed,
    )


def _guarded(contents: Contents) -> list[tuple[str, float | None, float]]:
    """Returns name, drop and multiplier of the classes under the guard, the class that lost most first."""
    guard = contents.guard
    if guard is None:
        return []
    rows = list(zip(contents.changes.audit.class_names, guard.drops, guard.weights, strict=True))
    return sorted(rows, key=lambda row: math.inf if row[1] is None else -row[1])


def _template() -> Any:
    jinja2 = require("jinja2", PURPOSE, "report")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # markup of ours is no plain str
    )  # fmt: skip
    return environment.get_template(TEMPLATE)


def _plotly_script() -> str:
    return require("plotly.offline", PURPOSE, "report").get_plotlyjs()
