"""The cards and the class audit as text and tables."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from xpruner.cli.tables import new_table
from xpruner.explain.audit import Audit
from xpruner.explain.cards import ClassCard, ImageOf, UnitCard
from xpruner.explain.image import ImageCard


def unit_text(card: UnitCard) -> list[Table | str]:
    """Returns why the unit went or stayed, what it is worth to each class, and the images that show it."""
    table = new_table("class", "mask", "top-1 points lost", "with its stand-ins", "nats", "with its stand-ins")
    measured = (card.alone.top1, card.together.top1, card.alone.nats, card.together.nats)
    for name, mask in card.serves.items():
        table.add_row(name, f"{mask:.3f}", *(f"{costs[name]:.3f}" if name in costs else "–" for costs in measured))
    near = ", ".join(map(str, card.together.units[1:]))
    return [
        f"{card.name}. {card.why}",
        table,
        f"Its stand-ins, the units of its layer that say most about it: {near or 'none'}.",
        f"Images that drive it most: {_listed(card.driven_by) or 'not known for this kind of unit'}.",
        f"Images whose prediction changes most without it: {_listed(card.missed_by)}.",
    ]


def class_text(card: ClassCard) -> list[Table | str]:
    """Returns layer by layer what stayed of the units that the class needs."""
    table = new_table("layer", "units kept", "evidence kept %", "carried by (mask, – for cut)")
    for layer in card.layers:
        units = ", ".join(f"{index} ({mask:.2f}{'' if kept else ', –'})" for index, mask, kept in layer.carried_by)
        table.add_row(layer.key, f"{layer.kept} of {layer.units}", f"{100 * layer.share_kept:.1f}", units)
    return [f"Class {card.name}, layer by layer.", table]


def audit_text(found: Audit) -> list[Table | str]:
    """Returns a row for each class, the class that pays most, and the confusions that rose most."""
    table = new_table("class", "images", "dense %", "pruned %", "95 % interval", "points lost", "lost", "gained", "p")
    for row in found.classes:
        interval = f"{100 * row.pruned.low:.1f}–{100 * row.pruned.high:.1f}"
        shares = [f"{100 * share.value:.2f}" for share in (row.dense, row.pruned)]
        counts = [f"{row.drop:.2f}", str(len(row.lost)), str(len(row.gained)), f"{row.p_value:.3f}"]
        table.add_row(row.name, str(row.images), *shares, interval, *counts)
    rising = [f"{c.truth} taken for {c.taken_for} ({c.dense} to {c.pruned})" for c in found.confusions[:5]]
    worst = found.worst
    return [
        table,
        f"{worst.name} pays most, with {worst.drop:.2f} points." if worst.drop > 0 else "No class pays.",
        f"Confusions that rose most: {'; '.join(rising) or 'none'}.",
    ]


def image_text(card: ImageCard) -> list[Table | str]:
    """Returns what both models take the image for, how far their maps agree, and where the picture of them is."""
    table = new_table("dense model", "%", "pruned model", "%")
    for dense, pruned in zip(card.dense, card.pruned, strict=True):
        shares = [f"{100 * guess.probability:.2f}" for guess in (dense, pruned)]
        table.add_row(dense.name, shares[0], pruned.name, shares[1])
    return [
        table,
        f"What speaks for {card.explained} ({card.method}): the maps' rank correlation is {card.agreement:.3f}.",
        f"The image, the dense model's map and the pruned model's map are side by side in {card.picture}.",
    ]


TEXTS: dict[str, Callable[[Any], list[Table | str]]] = {
    "unit": unit_text,
    "class": class_text,
    "audit": audit_text,
    "image": image_text,
}


def _listed(images: Sequence[ImageOf]) -> str:
    return ", ".join(f"{image.number} ({image.label}, {image.value:.3g})" for image in images)
