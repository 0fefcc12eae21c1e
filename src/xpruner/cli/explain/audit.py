"""``xpruner explain audit``: which classes pay for what was pruned."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xpruner.cli.explain.subject import ExplainOptions, Subject

if TYPE_CHECKING:
    from rich.table import Table

    from xpruner.explain.audit import Audit, ClassAudit
    from xpruner.run.finished import FinishedRun

SHOWN, NUMBERS = 5, 8
"""Of classes and confusions; and of the images of a class, and of classes without any."""


def explain(run: "FinishedRun", _name: str, _options: ExplainOptions) -> "Audit":
    """Returns the audit of the run's two models, class by class."""
    from xpruner.explain import audit_run

    return audit_run(run)


def text(found: "Audit") -> list["Table | str"]:
    """Returns a row for each class and for all, who pays most and with which images, and the confusions that rose."""
    from xpruner.cli.tables import guard_text, new_table

    table = new_table(
        "class", "images", "dense %", "pruned %", "pruned, 95 % interval", "points lost", "lost", "gained", "p"
    )
    for row in found.classes:
        table.add_row(*_audited(row))
    table.add_section()
    table.add_row(*_audited(found.overall))
    rising = [f"{c.truth} taken for {c.taken_for} ({c.dense} to {c.pruned})" for c in found.confusions[:SHOWN]]
    worst = found.worst
    paying = sorted((row for row in found.classes if row.lost), key=lambda row: -row.drop)[:SHOWN]
    lost = [f"{row.name} {_numbers(row.lost)}" for row in paying]
    return [
        table,
        f"{worst.name} pays most, with {worst.drop:.2f} points." if worst.drop > 0 else "No class pays.",
        f"Numbers of the images that were lost: {'; '.join(lost) or 'none'}.",
        f"Confusions that rose most: {'; '.join(rising) or 'none'}.",
        *_without_images(found.without_images),
        *(guard_text(found.guard, found.class_names) if found.guard else []),
    ]


def _without_images(names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - NUMBERS} more" if len(names) > NUMBERS else ""
    return [f"Nothing is known of classes without an image here: {', '.join(names[:NUMBERS])}{more}."] if names else []


def _audited(row: "ClassAudit") -> list[str]:
    shares = [f"{100 * share.value:.2f}" for share in (row.dense, row.pruned)]
    interval = f"{100 * row.pruned.low:.1f}–{100 * row.pruned.high:.1f}"
    counts = [f"{row.drop:.2f}", str(len(row.lost)), str(len(row.gained)), f"{row.p_value:.3f}"]
    return [row.name, str(row.images), *shares, interval, *counts]


def _numbers(images: Sequence[int]) -> str:
    rest = f" and {len(images) - NUMBERS} more" if len(images) > NUMBERS else ""
    return ", ".join(map(str, images[:NUMBERS])) + rest


SUBJECT = Subject("", "Which classes pay for what was pruned.", ExplainOptions, explain, text)
