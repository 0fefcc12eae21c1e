"""The figures of the page, made with plotly, each with a sentence that describes it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from xpruner.report.contents import Contents, LayerRates, Masks
from xpruner.report.labels import distinct, named, short, shortened, text
from xpruner.report.tables import Column, MaskTable
from xpruner.run.tracking import Curve

COLOURS = ("#2f7ed8", "#c9541f", "#2a8f63", "#9a5cc6", "#a8791a", "#c23b78")
"""Each stands out from white and from the dark page by 3 to 1 at least."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
HEAT = "Viridis"
MOST_CLASSES = 30
"""In the figure of drops; the table below it has all."""
MOST_POINTS = 400
"""Of a curve; longer ones are shown as means of neighbouring steps."""
MOST_TICKS = 12
FEW = 1000
"""Times that the largest value of an axis is the smallest, up to which it has room for more than powers of ten."""
ROW_PIXELS, TALLEST = 22, 640
SLANTED_PIXELS = 5.5
"""Height of a letter of a slanted name."""


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: For addresses in the page.
        title: What is chosen, where one figure is chosen from several.
        sentence: What it shows, for those who cannot see it and for those who can.
        plot: plotly's ``data`` and ``layout``, as plain JSON values.
    """

    name: str
    title: str
    sentence: str
    plot: dict[str, Any]


def keep_figure(contents: Contents) -> Figure:
    """Returns the share of the units that are kept, layer by layer."""
    traces, parts = [], []
    for place, (kind, layers) in enumerate(_by_kind(contents.layers)):
        percent = [100 * layer.kept / layer.units for layer in layers]
        hover = [f"{text(layer.key)}<br>{layer.kept} of {layer.units} kept" for layer in layers]
        traces.append(_line(place, kind, list(range(1, len(layers) + 1)), percent, hover))
        parts.append(f"{kind} {_span(f'{min(percent):.0f}', f'{max(percent):.0f}')} %")
    layout = {"yaxis": {"title": {"text": "units kept, %"}, "range": [-4, 104]}, "xaxis": _ordinal(traces)}
    return _figure(
        "keep", f"Units that are kept, from the first layer to the last: {', '.join(parts)}.", traces, layout
    )


def importance_figure(contents: Contents) -> Figure | None:
    """Returns the lowest importance of a kept unit, layer by layer; none, where there is no importance."""
    traces, parts = [], []
    for place, (kind, layers) in enumerate(_by_kind(contents.layers)):
        values = [layer.lowest for layer in layers]
        known = [value for value in values if value is not None]
        if known:
            hover = [f"{text(layer.key)}<br>lowest importance kept {_number(layer.lowest)}" for layer in layers]
            traces.append(_line(place, kind, list(range(1, len(layers) + 1)), values, hover))
            parts.append(f"{kind} {_span(_number(min(known)), _number(max(known)))}")
    if not traces:
        return None
    axis = {"title": {"text": "lowest importance kept"}, "automargin": True, **_scale(traces)}
    sentence = f"Lowest importance of a kept unit, from the first layer to the last: {', '.join(parts)}."
    return _figure("importance", sentence, traces, {"yaxis": axis, "xaxis": _ordinal(traces)})


def mask_figures(contents: Contents) -> list[Figure]:
    """Returns one heat map for the whole network and one for each group; none, where there are no masks."""
    masks = contents.masks
    if masks is None:
        return []
    return [_evidence_figure(masks), *(_mask_figure(i, table, masks.file) for i, table in enumerate(masks.tables))]


def drop_figure(contents: Contents) -> Figure:
    """Returns the points that the classes lost, with their intervals, the class that lost most at the top."""
    ranked = contents.changes.classes
    shown = ranked[:MOST_CLASSES]
    values = [drop.value for _, drop in shown]
    trace = {
        "type": "scatter", "mode": "markers", "x": values, "y": list(range(len(shown))),
        "marker": {"color": COLOURS[1], "size": 9}, "showlegend": False,
        "text": [
            f"{text(c.name)}: {signed(d.value)} points lost<br>95 % interval {signed(d.low)} to {signed(d.high)}<br>"
            f"{len(c.lost)} lost and {len(c.gained)} gained of {c.images} images"
            for c, d in shown
        ],
        "hovertemplate": "%{text}<extra></extra>",
        "error_x": {
            "type": "data", "symmetric": False, "array": [d.high - d.value for _, d in shown],
            "arrayminus": [d.value - d.low for _, d in shown], "color": COLOURS[0], "thickness": 2,
        },
    }  # fmt: skip
    layout = {
        "height": 110 + ROW_PIXELS * len(shown),
        "xaxis": {"title": {"text": "points of top-1 lost"}, "zeroline": True, "zerolinewidth": 2},
        "yaxis": {**named([short(c.name) for c, _ in shown]), "range": [len(shown) - 0.5, -0.5], "zeroline": False},
    }
    which = f"the {len(shown)} of {len(ranked)} classes that lost most" if len(ranked) > len(shown) else "all classes"
    sentence = (
        f"Points of top-1 lost with 95 % intervals, for {which}: from {signed(values[0])} ({shown[0][0].name}) "
        f"to {signed(values[-1])} ({shown[-1][0].name})."
    )
    return _figure("drops", sentence, [trace], layout)


def curve_figures(contents: Contents) -> list[Figure]:
    """Returns the losses of every stage that trains something."""
    known = [curve for curve in contents.curves if "loss" in curve.figures]
    return [_curve_figure(stage, list(curves)) for stage, curves in groupby(known, lambda c: c.stage)]


def signed(value: float) -> str:
    """Returns a figure with one decimal, its minus as long as a plus."""
    return f"{value:.1f}".replace("-", "−")


def _evidence_figure(masks: Masks) -> Figure:
    evidence = masks.evidence
    rows = [_row(row) for row in evidence.rows]
    columns = [text(key) for key in shortened(evidence.keys)]
    axis = {"type": "category", "automargin": True, "tickangle": -45, "title": {"text": "layer"}}
    low, high = int(evidence.percent.min()), int(evidence.percent.max())
    sentence = (
        f"Of each class's evidence, the odds of its masks in {masks.file}, the share that the kept units of a layer "
        f"hold: {low} to {high} %. {_rows_sentence(evidence.rows)}"
    )
    plot = _heat(evidence.percent, rows, columns, "%{y}<br>%{x}: %{z} % of its evidence kept", {"xaxis": axis})
    plot["layout"]["height"] += math.ceil(SLANTED_PIXELS * max(map(len, columns)))
    return Figure("masks-all", "Whole network: evidence kept", sentence, plot)


def _mask_figure(number: int, table: MaskTable, file: str) -> Figure:
    columns = [_column(column) for column in table.columns]
    edge = sum(column.kept for column in table.columns)
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "units"}, "showticklabels": False, "ticks": ""},
        "shapes": [
            {"type": "line", "x0": edge - 0.5, "x1": edge - 0.5, "y0": -0.04, "y1": 1.04, "yref": "paper",
             "line": {"width": 3, "color": COLOURS[1]}}
        ],
        "annotations": [_side(text, start, end) for text, start, end in
                        (("kept", 0, edge), ("pruned", edge, len(columns))) if end > start],
        "margin": {"t": 40},
    }  # fmt: skip
    if edge in (0, len(columns)):
        layout["shapes"] = []
    means = [
        (name, mean) for name, mean in (("kept", table.mean_kept), ("pruned", table.mean_pruned)) if mean is not None
    ]
    together = max(len(column.units) for column in table.columns)
    sentence = (
        f"{table.kept} of {table.units} units are kept; mean mask in {file} of the "
        f"{' and of the '.join(f'{name} ones {mean:.0f} %' for name, mean in means)}. {_rows_sentence(table.rows)}"
        f"{f' A column is the mean of up to {together} units that are alike.' if together > 1 else ''}"
    )
    plot = _heat(table.percent, [_row(row) for row in table.rows], columns, "%{y}<br>%{x}<br>mask %{z} %", layout)
    return Figure(f"masks-{number}", table.key, sentence, plot)


def _side(text: str, start: int, end: int) -> dict[str, Any]:
    place = {"x": (start + end - 1) / 2, "y": 1, "yref": "paper", "yanchor": "bottom"}
    return {"text": text, "showarrow": False, **place}


def _rows_sentence(rows: Sequence[Sequence[str]]) -> str:
    most = max(map(len, rows))
    return f"A row is the mean of up to {most} classes that are alike." if most > 1 else "A row is a class."


def _row(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(text(short(name)) for name in names[:3]) + more


def _column(column: Column) -> str:
    first, more = column.units[0], len(column.units) - 1
    units = f"unit {first}" if not more else f"unit {first} and {more} like it"
    served = ", ".join(text(short(name)) for name in column.serves)
    return f"{units}, {'kept' if column.kept else 'pruned'}<br>largest for {served}"


def _heat(
    percent: np.ndarray, rows: Sequence[str], columns: Sequence[str], hover: str, layout: dict[str, Any]
) -> dict[str, Any]:
    """Returns a heat map; the words of rows and columns are there once each, not for every cell."""
    tall = min(TALLEST, 150 + ROW_PIXELS * len(rows))
    ticks = {"automargin": True} if ROW_PIXELS * len(rows) <= TALLEST else {"showticklabels": False, "ticks": ""}
    trace = {
        "type": "heatmap", "z": percent, "zmin": 0, "zmax": 100, "colorscale": HEAT, "x": distinct(columns),
        "y": distinct(rows), "hovertemplate": f"{hover}<extra></extra>",
        "colorbar": {"title": {"text": "%"}, "thickness": 12, "outlinewidth": 0, "tickvals": [0, 50, 100]},
    }  # fmt: skip
    axis = {"type": "category", "autorange": "reversed", **ticks}
    return _plot([trace], {**layout, "height": tall, "yaxis": axis, "dragmode": "zoom"})


def _curve_figure(stage: str, curves: Sequence[Curve]) -> Figure:
    traces, start, parts = [], 0, []
    for place, curve in enumerate(curves):
        name = f"loop {curve.loop}" if len(curves) > 1 else "loss"
        steps, losses = thinned(curve.steps, curve.figures["loss"])
        traces.append({
            "type": "scatter", "mode": "lines", "name": name, "x": [start + step for step in steps], "y": losses,
            "line": {"color": COLOURS[place % len(COLOURS)], "dash": DASHES[place // len(COLOURS) % len(DASHES)]},
            "hovertemplate": f"{name}, step %{{x}}: %{{y:.4g}}<extra></extra>",
        })  # fmt: skip
        start += curve.steps[-1]
        parts.append(f"{name} from {_number(losses[0])} to {_number(losses[-1])}")
    layout = {"xaxis": {"title": {"text": "update"}}, "yaxis": {"title": {"text": "loss"}, "rangemode": "tozero"}}
    sentence = f"Loss over {start} updates of the stage {stage}: {', '.join(parts)}."
    return _figure(f"curve-{stage}", sentence, traces, layout)


def thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float | None]]:
    """Returns a curve of at most :data:`MOST_POINTS` points, means of neighbours; None for what is not finite."""
    blocks = min(len(steps), MOST_POINTS)
    x, y = ([float(part.mean()) for part in np.array_split(np.array(v, float), blocks)] for v in (steps, values))
    return x, [value if math.isfinite(value) else None for value in y]


def _by_kind(layers: Sequence[LayerRates]) -> list[tuple[str, list[LayerRates]]]:
    kinds = dict.fromkeys(layer.kind for layer in layers)
    return [(kind, [layer for layer in layers if layer.kind == kind]) for kind in kinds]


def _line(place: int, name: str, x: list[int], y: list[Any], hover: list[str]) -> dict[str, Any]:
    style = {"color": COLOURS[place % len(COLOURS)]}
    marker = {**style, "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9}
    return {"type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, "text": hover,
            "hovertemplate": "%{text}<extra></extra>", "marker": marker, "line": style}  # fmt: skip


def _ordinal(traces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    most = max(len(trace["x"]) for trace in traces)
    return {"title": {"text": "layer, first to last"}, "tick0": 1, "dtick": -(-most // MOST_TICKS)}


def _scale(traces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns a logarithmic axis where all is above zero; of few decades with 1, 2 and 5 of each."""
    values = [y for trace in traces for y in trace["y"] if y is not None]
    if min(values) <= 0:
        return {}
    ticks = {"dtick": "D2"} if max(values) < FEW * min(values) else {}
    return {"type": "log", "exponentformat": "power", **ticks}


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _figure(name: str, sentence: str, traces: list[dict[str, Any]], layout: dict[str, Any]) -> Figure:
    return Figure(name, "", sentence, _plot(traces, {"height": 340, **layout}))


def _plot(traces: list[dict[str, Any]], layout: dict[str, Any]) -> dict[str, Any]:
    """Returns a checked figure as JSON values; arrays of numpy become base64."""
    common = {
        "template": "none", "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "hovermode": "closest",
        "font": {"family": "system-ui, sans-serif", "size": 13}, "dragmode": False,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }  # fmt: skip
    from plotly import graph_objects

    margin = {"l": 60, "r": 16, "t": 36, "b": 48, **layout.get("margin", {})}
    return json.loads(graph_objects.Figure(traces, {**common, **layout, "margin": margin}).to_json())
