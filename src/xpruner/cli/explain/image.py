"""``xpruner explain image IMAGE``: what both models predict for an image, and why."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xpruner.cli.explain.subject import ExplainOptions, Subject

if TYPE_CHECKING:
    from rich.table import Table

    from xpruner.explain.image_cards import ImageCard
    from xpruner.run.finished import FinishedRun


@dataclass
class ImageOptions(ExplainOptions):
    """The run, and the explanation maps of the image.

    Attributes:
        method: Of the explanation maps, such as ``gradcam``.
        class_name: The class that the maps explain, also written ``--class``; absent, what the dense model predicts. Of
            no effect on ``rollout``, which knows no class.
        output: The PNG with the image and its maps; absent, one in ``explained`` in the run directory.
    """

    method: str = "relevance"
    class_name: str | None = None
    output: str | None = None


def explain(run: "FinishedRun", name: str, options: ImageOptions) -> "ImageCard":
    """Returns the card of an image file, or of the run's image of that number."""
    from xpruner.explain import find_class, image_card

    label = None if options.class_name is None else find_class(options.class_name, run.class_names)
    source = int(name) if name.isdecimal() else name
    return image_card(run, source, options.method, label, Path(options.output) if options.output else None)


def text(card: "ImageCard") -> list["Table | str"]:
    """Returns what both models predict, how similar their maps are, and where the picture of them is."""
    from xpruner.cli.tables import new_table

    table = new_table("dense model", "%", "pruned model", "%")
    for dense, pruned in zip(card.dense, card.pruned, strict=True):
        shares = [f"{100 * prediction.probability:.2f}" for prediction in (dense, pruned)]
        table.add_row(dense.name, shares[0], pruned.name, shares[1])
    return [
        table,
        f"Evidence for {card.explained} ({card.method}): the maps' rank correlation is "
        f"{card.similarity.spearman:.3f} (chance level {card.chance.spearman:.3f}).",
        f"The image, the dense model's map and the pruned model's map are side by side in {card.picture}.",
    ]


SUBJECT = Subject(
    "IMAGE",
    "What both models predict for an image file, or an image of the run by its number, and why.",
    ImageOptions,
    explain,
    text,
)
