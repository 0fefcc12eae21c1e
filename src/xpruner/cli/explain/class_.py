"""``xpruner explain class CLASS``: which units carry a class, and which of them were pruned."""

from typing import TYPE_CHECKING

from xpruner.cli.explain.subject import ExplainOptions, Subject

if TYPE_CHECKING:
    from rich.table import Table

    from xpruner.explain.class_cards import ClassCard
    from xpruner.run.finished import FinishedRun


def explain(run: "FinishedRun", name: str, _options: ExplainOptions) -> "ClassCard":
    """Returns the card of the class that is named, or whose number it is."""
    from xpruner.explain import class_card, find_class

    return class_card(run, find_class(name, run.class_names))


def text(card: "ClassCard") -> list["Table | str"]:
    """Returns layer by layer how many of the units that the class needs were kept."""
    if not card.seen:
        return [
            f"Nothing is known of class {card.name}: the masks of this run have seen no image of it; give the run "
            "training images of it, or raise data.calibration_size where there are some."
        ]
    from xpruner.cli.tables import new_table

    table = new_table("layer", "units kept", "evidence kept %", "carried by")
    for layer in card.layers:
        units = ", ".join(
            f"{unit.unit} ({_times(unit.times)}{'' if unit.kept else ', pruned'})" for unit in layer.carried_by
        )
        table.add_row(layer.key, f"{layer.kept} of {layer.units}", f"{100 * layer.share_kept:.1f}", units)
    return [
        f"Class {card.name}, layer by layer. Carried by: the units with most evidence for it in the dense model, and "
        "how many times as much that is as for the other classes on average.",
        table,
    ]


def _times(ratio: float) -> str:
    return f"{ratio:.2g}×" if ratio < 99.5 else f"{ratio:,.0f}×"


SUBJECT = Subject("CLASS", "Which units carry a class, and which of them were pruned.", ExplainOptions, explain, text)
