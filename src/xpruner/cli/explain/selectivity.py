"""``xpruner explain selectivity``: which classes lose when the units that a class marks are ablated."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xpruner.cli.explain.subject import ExplainOptions, Subject

if TYPE_CHECKING:
    from rich.table import Table

    from xpruner.explain.selectivity import SelectivityCard
    from xpruner.run.finished import FinishedRun


@dataclass
class SelectivityOptions(ExplainOptions):
    """The run, the units, and the images.

    Attributes:
        share: Of the units, ablated for each class.
        kind: Of unit, such as ``hidden``; ``all`` ranks every kind together.
        images: At most so many of the run's images are used.
    """

    share: float = 0.1
    kind: str = "hidden"
    images: int = 1000


def explain(run: "FinishedRun", _name: str, options: SelectivityOptions) -> "SelectivityCard":
    """Returns what each class and the others lose without the units that the class marks."""
    from xpruner.explain import selectivity_card

    return selectivity_card(run, options.kind, options.share, options.images)


def text(card: "SelectivityCard") -> list["Table | str"]:
    """Returns the losses by masks and by Taylor's score: over all classes, then class by class."""
    from xpruner.cli.tables import new_table
    from xpruner.explain.selectivity import EVERY

    means = new_table("units ranked by", "the class loses", "the others lose", "ratio")
    for name, summary in card.by.items():
        ratio = "–" if summary.ratio is None else f"{summary.ratio:.2f}"
        means.add_row(name, f"{summary.own:.2f}", f"{summary.others:.2f}", ratio)
    by_class = new_table("class", *(f"{name}: {who}" for name in card.by for who in ("it loses", "others lose")))
    for row in zip(*(summary.classes for summary in card.by.values()), strict=True):
        figures = [f"{points:.2f}" for found in row for points in (found.own, found.others)]
        by_class.add_row(card.class_names[row[0].label], *figures)
    units = "units of every kind" if card.kind == EVERY else f"{card.kind} units"
    return [
        means,
        by_class,
        f"Points of top-1 that the dense model loses on {card.images} images without the {100 * card.share:g} % of its "
        f"{units} that a class marks most.",
    ]


SUBJECT = Subject(
    "",
    "Whether the masks are specific to classes: which classes lose when the units of a class are ablated.",
    SelectivityOptions,
    explain,
    text,
)
