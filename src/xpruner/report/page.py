"""The page itself: a template that lays out what was gathered, in one file that needs no other."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from xpruner.errors import UsageError
from xpruner.explain.finished import FinishedRun
from xpruner.files import write_text
from xpruner.report.contents import Contents, gather
from xpruner.report.figures import curve_figures, drop_figure, keep_figure, mask_figures, signed, threshold_figure

TEMPLATE = "template.html.jinja"


def write_report(run: FinishedRun, path: Path, maps_method: str = "relevance") -> Path:
    """Writes the page about a run, whole or not at all, and returns its path.

    Args:
        run: A finished run.
        path: Of the page.
        maps_method: Of the explanation maps, one of :func:`xpruner.explain.maps.map_methods`.

    Raises:
        UsageError: If plotly or jinja2 is not installed, the run is not finished, or the method is unknown.
        XPrunerError: If a file of the run is damaged, or the page cannot be written.
    """
    template, script = _template(), _plotly_script()  # what is missing is known before anything is computed
    write_text(path, _rendered(template, script, gather(run, maps_method)))
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
    drawn = [keep_figure(contents), threshold_figure(contents), drop_figure(contents), *curve_figures(contents)]
    figures = {figure.name: figure for figure in [*masks[:1], *drawn] if figure is not None}
    return template.render(
        contents=contents,
        plotly=Markup(script),
        figures=figures,
        masks=masks,
        plots={name: figure.plot for name, figure in figures.items()} | {m.name: m.plot for m in masks},
        ranked=_ranked(contents),
        signed=signed,
    )


def _ranked(contents: Contents) -> Sequence[Any]:
    """Returns the classes of the audit with their drops, the class that lost most first."""
    return sorted(zip(contents.audit.classes, contents.drops, strict=True), key=lambda pair: -pair[1].value)


def _template() -> Any:
    jinja2 = _needed("jinja2")
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE)


def _plotly_script() -> str:
    return _needed("plotly.offline").get_plotlyjs()


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise UsageError(f"{name} is needed to write a report; pip install 'xpruner[report]'.") from error
