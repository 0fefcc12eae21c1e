"""The cards and the class audit as text and tables."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from xpruner.cli.tables import guard_text, new_table
from xpruner.explain.audit import Audit, ClassAudit, Drop
from xpruner.explain.class_cards import ClassCard
from xpruner.explain.image_cards import ImageCard
from xpruner.explain.unit_cards import ImageOf, UnitCard

SHOWN, NUMBERS = 5, 8
"""Of classes and confusions; and of the images of a class, and of classes without any."""


def unit_text(card: UnitCard) -> list[Table | str]:
    """Returns why the unit went or stayed, what it is worth to each class, and the images that show it."""
    table = new_table(
        "class", "mask", "decided", "images", "points lost", "with stand-ins", "nats", "with stand-ins"
    )  # fmt: skip
    for name, mask in card.serves.items():
        points = [_points(cost.top1.get(name)) for cost in (card.alone, card.together)]
        nats = [f"{cost.nats[name]:.2f}" if name in cost.nats else "–" for cost in (card.alone, card.together)]
        table.add_row(name, f"{mask:.3f}", f"{card.decided[name]:.3f}", str(card.images.get(name, 0)), *points, *nats)
    near = ", ".join(map(str, card.together.units[1:]))
    noise = [what for cost, what in ((card.alone, "alone"), (card.together, "with its stand-ins")) if cost.noise]
    return [
        f"{card.name}. {card.why}",
        table,
        "The mask speaks of the trained network; the one that decided, of which the importance is made, of the network "
        "that was left when the plan last looked at the unit, measured against what was scarce by then.",
        *([f"Closed {' and '.join(noise)} it costs no class more than chance explains: every 95 % interval, in "
           "brackets, holds 0; more --images narrow them."] if noise else []),
        f"Its stand-ins, the units of its layer that say most about it: {near or 'none'}.",
        f"Images that drive it most: {_listed(card.driven_by) or 'not known for this kind of unit'}.",
        f"Images whose prediction changes most without it: {_listed(card.missed_by)}.",
    ]  # fmt: skip


def class_text(card: ClassCard) -> list[Table | str]:
    """Returns layer by layer what stayed of the units that the class needs."""
    if not card.seen:
        return [
            f"Nothing is known of class {card.name}: the masks of this run have seen no image of it; give the run "
            "training images of it, or raise data.calibration_size where there are some."
        ]
    table = new_table("layer", "units kept", "evidence kept %", "carried by")
    for layer in card.layers:
        units = ", ".join(
            f"{unit.unit} ({_times(unit.times)}{'' if unit.kept else ', cut'})" for unit in layer.carried_by
        )
        table.add_row(layer.key, f"{layer.kept} of {layer.units}", f"{100 * layer.share_kept:.1f}", units)
    return [
        f"Class {card.name}, layer by layer. Carried by: the units with most evidence for it in the dense model, and "
        "how many times as much that is as for the other classes on average.",
        table,
    ]


def audit_text(found: Audit) -> list[Table | str]:
    """Returns a row for each class and for all, who pays most and with which images, and the confusions that rose."""
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


def image_text(card: ImageCard) -> list[Table | str]:
    """Returns what both models take the image for, how far their maps agree, and where the picture of them is."""
    table = new_table("dense model", "%", "pruned model", "%")
    for dense, pruned in zip(card.dense, card.pruned, strict=True):
        shares = [f"{100 * guess.probability:.2f}" for guess in (dense, pruned)]
        table.add_row(dense.name, shares[0], pruned.name, shares[1])
    return [
        table,
        f"What speaks for {card.explained} ({card.method}): the maps' rank correlation is "
        f"{card.likeness.spearman:.3f} (by chance {card.floor.spearman:.3f}).",
        f"The image, the dense model's map and the pruned model's map are side by side in {card.picture}.",
    ]


TEXTS: dict[str, Callable[[Any], list[Table | str]]] = {
    "unit": unit_text,
    "class": class_text,
    "audit": audit_text,
    "image": image_text,
}


def _times(ratio: float) -> str:
    return f"{ratio:.2g}×" if ratio < 99.5 else f"{ratio:,.0f}×"


def _points(drop: Drop | None) -> str:
    return "–" if drop is None else f"{drop.value:.1f} ({drop.low:.1f} to {drop.high:.1f})"


def _audited(row: ClassAudit) -> list[str]:
    shares = [f"{100 * share.value:.2f}" for share in (row.dense, row.pruned)]
    interval = f"{100 * row.pruned.low:.1f}–{100 * row.pruned.high:.1f}"
    counts = [f"{row.drop:.2f}", str(len(row.lost)), str(len(row.gained)), f"{row.p_value:.3f}"]
    return [row.name, str(row.images), *shares, interval, *counts]


def _numbers(images: Sequence[int]) -> str:
    rest = f" and {len(images) - NUMBERS} more" if len(images) > NUMBERS else ""
    return ", ".join(map(str, images[:NUMBERS])) + rest


def _listed(images: Sequence[ImageOf]) -> str:
    return ", ".join(f"{image.number} ({image.label}, {image.value:.3g})" for image in images)
