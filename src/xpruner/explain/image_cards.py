"""Cards of images: what the dense and the pruned model predict, and the explanation maps of both."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from xpruner.data import InputSpec
from xpruner.data.class_names import unique_names
from xpruner.data.image import read_image
from xpruner.errors import UsageError
from xpruner.explain.map_pair import MapSimilarity, map_pair
from xpruner.explain.pictures import heated, pixels_of, side_by_side, write_png
from xpruner.explain.predictions import Prediction, top_predictions
from xpruner.run.finished import FinishedRun


@dataclass(frozen=True)
class ImageCard:
    """The predictions and the maps of both models for one image.

    Attributes:
        image: Where it lies, or its number in the run's images.
        dense: What the dense model predicts, the most probable class first.
        pruned: What the pruned model predicts.
        explained: Name of the class that the maps explain;
            :data:`~xpruner.explain.map_pair.ANY_CLASS` where they do not depend on it.
        method: Of the maps.
        similarity: Of the two maps.
        chance: The chance level of their similarity.
        picture: Where the image, the dense model's map and that of the pruned model lie, side by side.
        truth: Name of the class of an image of the run; None for a file.
    """

    image: str
    dense: list[Prediction]
    pruned: list[Prediction]
    explained: str
    method: str
    similarity: MapSimilarity
    chance: MapSimilarity
    picture: str
    truth: str | None = None


def image_card(
    run: FinishedRun, source: str | Path | int, method: str = "relevance", label: int | None = None,
    output: Path | None = None,
) -> ImageCard:  # fmt: skip
    """Returns the card of an image, and writes its picture.

    Args:
        run: A finished run.
        source: Path of an image file, or the number of one of the run's images, as the cards count them.
        method: Of the maps.
        label: Of the class to explain; absent, the one that the dense model predicts. Of no effect where the
            maps do not depend on it.
        output: The PNG to write; absent, one in ``explained`` in the run directory, named by image and method.

    Raises:
        UsageError: If the image cannot be read, or the method is unknown or cannot read a model.
        XPrunerError: If the picture cannot be written.
    """
    spec, names = InputSpec.of(run.dense), unique_names(run.class_names)
    image, truth = numbered_image(run, source) if isinstance(source, int) else (read_image(source, spec), None)
    pair = map_pair(run.dense, run.pruned, image, method, label)
    name = f"image-{source}" if isinstance(source, int) else Path(source).stem
    output = output or run.folder / "explained" / f"{name}-{method}.png"
    pixels = pixels_of(image, spec)
    write_png(output, side_by_side([pixels, *(heated(pixels, found.numpy()) for found in (pair.dense, pair.pruned))]))
    dense, pruned = (top_predictions(model, image, names) for model in (run.dense, run.pruned))
    explained, similarity = pair.explained(names), (pair.similarity, pair.chance)
    return ImageCard(str(source), dense, pruned, explained, method, *similarity, str(output), truth)


def numbered_image(run: FinishedRun, number: int) -> tuple[Tensor, str]:
    """Returns one of the images that a run was measured on, as the models take it, and the name of its class.

    Raises:
        UsageError: If there is none of this number.
    """
    if not 0 <= number < len(run.images):
        raise UsageError(
            f"There is no image {number}; those of the run are 0 to {len(run.images) - 1}, and a file whose name is a "
            f"number is given as ./{number}."
        )
    pixels, label = run.images[number]
    return pixels, unique_names(run.class_names)[label]
