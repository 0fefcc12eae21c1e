"""How far explanation maps can be trusted, and how far the masks speak of classes, as text and tables."""

from rich.table import Table

from xpruner.cli.tables import new_table
from xpruner.explain.map_cards import MapsCard, MapTrust
from xpruner.explain.selectivity import EVERY, SelectivityCard

BOXED = (
    "Then how many maps point into a box, and how much of their positive part lies inside: dense / pruned. The boxes "
    "cover {:.1f} % of these images."
)


def maps_text(card: MapsCard) -> list[Table | str]:
    """Returns a row for each method, and how it is read."""
    where = [] if card.covered is None else ["points at it, %", "energy inside, %"]
    table = new_table("maps", "insertion", "deletion", "rank correlation", "SSIM", "top 20 %", *where, "s a map")
    for method, found in card.methods.items():
        pairs = [" / ".join(f"{area:.3f}" for area in areas.values()) for areas in (found.insertion, found.deletion)]
        alike, floor = found.agreement["pruned"], found.floor
        likeness = [
            f"{alike.spearman:.3f} ({floor.spearman:.3f})",
            f"{alike.ssim:.3f} ({floor.ssim:.3f})",
            f"{alike.top_overlap:.3f} ({floor.top_overlap:.3f})",
        ]
        table.add_row(method, *pairs, *likeness, *_inside(found), f"{found.seconds:.2f}")
    return [
        table,
        f"Means over {card.images} images that both models get right, explained for their classes.",
        "Insertion (higher is better) and deletion (lower is better): dense / pruned, each model's own maps.",
        "Then how far the maps of the two models agree, and in brackets what that would be by chance: with shuffled "
        f"maps, as smooth and as sparse (seed {card.seed}).",
        *([] if card.covered is None else [BOXED.format(100 * card.covered)]),
    ]


def _inside(found: MapTrust) -> list[str]:
    models = (found.inside or {}).values()
    shares = [[model.pointing for model in models], [model.energy for model in models]]
    return [" / ".join(f"{100 * share:.1f}" for share in both) for both in shares if both]


def selectivity_text(card: SelectivityCard) -> list[Table | str]:
    """Returns what is lost by masks and by Taylor's score: over all classes, then class by class."""
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
