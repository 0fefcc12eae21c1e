"""The parts of the page as HTML; whatever came from outside is escaped."""

import html
from collections.abc import Sequence

from torch import Tensor

from xpruner.data import InputSpec
from xpruner.explain.map_pair import MapPair
from xpruner.explain.pictures import data_uri, heated, pixels_of
from xpruner.explain.predictions import Prediction
from xpruner.explore.answers import kept_units
from xpruner.plan.plan import Plan
from xpruner.run.finished import FinishedRun
from xpruner.text import printable

SIDE = 384
"""Largest side of a picture, in pixels."""


def heading(run: FinishedRun) -> str:
    """Returns whose page it is."""
    config = run.config
    return (
        f"<h1>{escape(run.folder.name)}</h1><p>{escape(config.model.name)} on {escape(config.data.name)}, "
        f"pruned to {escape(config.budget)} by {escape(config.method)}</p>"
    )


def costs(plan: Plan) -> str:
    """Returns the cost of the pruned model, beside that of the dense one."""
    tiles = "".join(
        f"<div><dt>{title}</dt><dd>{_millions(plan.cost[f'{key}_pruned'])}</dd>"
        f"<dd>{_percent(plan.cost[f'{key}_pruned'] / plan.cost[f'{key}_dense'])} of "
        f"{_millions(plan.cost[f'{key}_dense'])}</dd></div>"
        for key, title in (("macs", "MACs"), ("params", "Parameters"))
    )
    return f"<dl class='tiles'>{tiles}</dl>"


def source(origin: str, command: str) -> str:
    """Returns which model the pruned one is, and the command that makes it for good, if there is one."""
    return f"<p>{escape(origin)}</p>" + (f"<pre><code>{escape(command)}</code></pre>" if command else "")


def units(plan: Plan) -> str:
    """Returns the table of kept units: a row for each module, a column for each kind."""
    rows = kept_units(plan)
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    head = "".join(f"<th scope='col'>{escape(kind)}</th>" for kind in kinds)
    body = "".join(
        f"<tr><th scope='row'>{escape(module)}</th>{''.join(_cell(row.get(kind)) for kind in kinds)}</tr>"
        for module, row in rows.items()
    )
    return (
        f"<div class='scroll'><table><thead><tr><th scope='col'>layer</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def predictions(what: str, share: float, dense: Sequence[Prediction], pruned: Sequence[Prediction]) -> str:
    """Returns what both models predict for an image.

    Args:
        what: The image is.
        share: The budget of the pruned model.
        dense: The dense model's predictions.
        pruned: Those of the pruned model.
    """
    sides = "".join(
        f"<section><h3>{title}</h3><ol>{''.join(map(_prediction, found))}</ol></section>"
        for title, found in (("Dense model", dense), (f"Pruned to {share:g}", pruned))
    )
    return f"<p>{escape(what)}.</p><div class='pair'>{sides}</div>"


def maps(image: Tensor, spec: InputSpec, pair: MapPair, name: str) -> str:
    """Returns the image and both maps side by side.

    Args:
        image: (3, height, width), as the models take it.
        spec: Their input.
        pair: The maps.
        name: Of the class that they explain, or that it is any.
    """
    pixels = pixels_of(image, spec)
    shown = {
        "image": pixels,
        "dense model": heated(pixels, pair.dense.numpy()),
        "pruned model": heated(pixels, pair.pruned.numpy()),
    }
    figures = "".join(
        f"<figure><img src='{data_uri(picture, SIDE)}' alt='{title}'><figcaption>{title}</figcaption></figure>"
        for title, picture in shown.items()
    )
    return (
        f"<div class='trio'>{figures}</div><p>Evidence for <b>{escape(name)}</b>; the two maps' rank correlation is "
        f"{pair.similarity.spearman:.3f} (chance level {pair.chance.spearman:.3f}).</p>"
    )


def escape(text: str) -> str:
    """Returns a text from outside as it stands, with nothing in it that a browser would obey."""
    return html.escape(printable(text))


def _cell(kept: tuple[int, int] | None) -> str:
    if kept is None:
        return "<td></td>"
    count, size = kept
    return f"<td>{count} of {size}{_bar(count / size)}</td>"


def _prediction(one: Prediction) -> str:
    share = one.probability
    return f"<li><span>{escape(one.name)}</span> <span>{_percent(share)}</span>{_bar(share)}</li>"


def _bar(share: float) -> str:
    return f"<i class='bar' aria-hidden='true'><i style='width: {100 * share:.1f}%'></i></i>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _millions(amount: float) -> str:
    return f"{amount / 1e6:,.2f} M"
