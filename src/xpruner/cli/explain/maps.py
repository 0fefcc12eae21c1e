"""``xpruner explain maps``: the quality of explanation maps, and how similar those of both models are."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xpruner.cli.explain.subject import ExplainOptions, Subject

if TYPE_CHECKING:
    from rich.table import Table

    from xpruner.explain.map_cards import MapQuality, MapsCard
    from xpruner.run.finished import FinishedRun

BOXED = (
    "Then the share of maps that point into a box, and the share of their positive part that lies inside: dense / "
    "pruned. The boxes cover {:.1f} % of these images."
)


@dataclass
class MapsOptions(ExplainOptions):
    """The run, the methods, and the images.

    Attributes:
        methods: Of the explanation maps, such as ``gradcam,relevance``; given more than once, they add up.
        images: At most so many of the run's images that both models get right.
        seed: Of the shuffled maps.
        boxes: A CSV file of boxes around objects, ``image,left,top,right,bottom``: only these images are used, and how
            much of the maps lies inside is measured too.
    """

    methods: list[str] = field(default_factory=lambda: ["attnlrp", "gradcam", "relevance", "rollout"])
    images: int = 20
    seed: int = 0
    boxes: str | None = None


def explain(run: "FinishedRun", _name: str, options: MapsOptions) -> "MapsCard":
    """Returns the quality of each method's maps."""
    from xpruner.explain import maps_card, read_boxes

    boxes = None if options.boxes is None else read_boxes(options.boxes, run)
    return maps_card(run, options.methods, options.images, options.seed, boxes)


def text(card: "MapsCard") -> list["Table | str"]:
    """Returns a row for each method, and how it is read."""
    from xpruner.cli.tables import new_table

    where = [] if card.covered is None else ["points at it, %", "energy inside, %"]
    table = new_table("maps", "insertion", "deletion", "rank correlation", "SSIM", "top 20 %", *where, "s a map")
    for method, found in card.methods.items():
        pairs = [" / ".join(f"{area:.3f}" for area in areas.values()) for areas in (found.insertion, found.deletion)]
        alike, chance = found.agreement["pruned"], found.chance
        agreement = [
            f"{alike.spearman:.3f} ({chance.spearman:.3f})",
            f"{alike.ssim:.3f} ({chance.ssim:.3f})",
            f"{alike.top_overlap:.3f} ({chance.top_overlap:.3f})",
        ]
        table.add_row(method, *pairs, *agreement, *_inside(found), f"{found.seconds:.2f}")
    return [
        table,
        f"Means over {card.images} images that both models get right, explained for their classes.",
        "Insertion (higher is better) and deletion (lower is better): dense / pruned, each model's own maps.",
        "Then how similar the maps of the two models are, and in brackets the chance level: the same with shuffled "
        f"maps, as smooth and as sparse (seed {card.seed}).",
        *([] if card.covered is None else [BOXED.format(100 * card.covered)]),
    ]


def _inside(found: "MapQuality") -> list[str]:
    models = (found.inside or {}).values()
    shares = [[model.pointing for model in models], [model.energy for model in models]]
    return [" / ".join(f"{100 * share:.1f}" for share in both) for both in shares if both]


SUBJECT = Subject(
    "", "How faithful explanation maps are, and how similar those of both models are.", MapsOptions, explain, text
)
