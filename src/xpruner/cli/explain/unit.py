"""``xpruner explain unit UNIT``: why a unit was kept or pruned, and what ablating it costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xpruner.cli.explain.subject import ExplainOptions, Subject

if TYPE_CHECKING:
    from rich.table import Table

    from xpruner.explain.audit import Drop
    from xpruner.explain.unit_cards import RankedImage, UnitCard
    from xpruner.run.finished import FinishedRun


@dataclass
class UnitOptions(ExplainOptions):
    """The run, and on how many images ablation is measured.

    Attributes:
        images: At most so many of the run's images are used.
    """

    images: int = 1000


def explain(run: "FinishedRun", name: str, options: UnitOptions) -> "UnitCard":
    """Returns the card of the unit that is named, such as ``blocks.3.mlp:17``."""
    from xpruner.explain import find_unit, unit_card

    return unit_card(run, *find_unit(name, run.units), options.images)


def text(card: "UnitCard") -> list["Table | str"]:
    """Returns why the unit was kept or pruned, what each class loses without it, and the images that show it."""
    from xpruner.cli.tables import new_table

    redundant = card.together.units[1:]
    together = _with(len(redundant))
    table = new_table(
        "class", "mask", "deciding mask", "images", "points lost", together, "cross-entropy rise", together
    )  # fmt: skip
    costs = (card.alone, card.together)
    for name, mask in card.serves.items():
        points = [_points(cost.top1.get(name)) for cost in costs]
        rises = [f"{cost.loss[name]:.2f}" if name in cost.loss else "–" for cost in costs]
        table.add_row(name, f"{mask:.3f}", f"{card.decided[name]:.3f}", str(card.images.get(name, 0)), *points, *rises)
    noise = [what for cost, what in ((card.alone, "alone"), (card.together, together)) if cost.noise]
    return [
        f"{card.name}. {card.why}",
        table,
        "The mask is that of the dense model. The deciding mask, of which the importance is made, is the last estimate "
        "of the search: that of the network as pruned by then, relative to the budget that was left.",
        *([f"Ablated {' and '.join(noise)}, it costs no class more than chance explains: every 95 % interval (in "
           "brackets) contains 0; more --images narrow them."] if noise else []),
        f"Its most redundant units, those of its layer that explain most of its variance linearly: "
        f"{', '.join(map(str, redundant)) or 'none'}.",
        f"Images that activate it most: {_listed(card.activated_by) or 'not known for this kind of unit'}.",
        f"Images whose prediction changes most when it is ablated: {_listed(card.missed_by)}.",
    ]  # fmt: skip


def _with(redundant: int) -> str:
    few = {0: "with no redundant unit", 1: "with its most redundant unit"}
    return few.get(redundant, f"with its {redundant} most redundant units")


def _points(drop: "Drop | None") -> str:
    return "–" if drop is None else f"{drop.value:.1f} ({drop.low:.1f} to {drop.high:.1f})"


def _listed(images: Sequence["RankedImage"]) -> str:
    return ", ".join(f"{image.number} ({image.label}, {image.value:.3g})" for image in images)


SUBJECT = Subject(
    "UNIT",
    "Why a unit, such as blocks.3.mlp:17, was kept or pruned, and what ablating it costs.",
    UnitOptions,
    explain,
    text,
)
