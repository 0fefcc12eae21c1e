"""One image: what the dense and the pruned model take it for, and what each of them looks at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from xpruner.data import InputSpec
from xpruner.data.rgb import as_rgb
from xpruner.data.transforms import Plain
from xpruner.errors import UsageError
from xpruner.explain.agreement import spearman
from xpruner.explain.finished import FinishedRun, different
from xpruner.explain.maps import find_method, saliency
from xpruner.explain.pictures import heated, pixels_of, side_by_side, write_png
from xpruner.outputs import logits_of
from xpruner.training.evaluate import evaluating

SHOWN = 5
ANY_CLASS = "any class"
"""What is explained by maps that are the same whatever the class."""


@dataclass(frozen=True)
class Guess:
    """A class that a model may take an image for, and how probable that is to it, 0 to 1."""

    name: str
    probability: float


@dataclass(frozen=True)
class MapPair:
    """What two models look at when they are asked for the same class.

    Attributes:
        label: Of the class.
        dense: (height, width), the dense model's map.
        pruned: That of the pruned model.
        agreement: Rank correlation of the two, -1 to 1.
    """

    label: int
    dense: Tensor
    pruned: Tensor
    agreement: float


@dataclass(frozen=True)
class ImageCard:
    """One image, and what became of it.

    Attributes:
        image: Where it lies, or its number in the run's images.
        dense: The classes that the dense model thinks of, the most probable first.
        pruned: Those that the pruned model thinks of.
        explained: Name of the class that the maps explain; :data:`ANY_CLASS` where the method knows none.
        method: Of the maps.
        agreement: Rank correlation of the two maps, -1 to 1.
        picture: Where the image, the dense model's map and that of the pruned model lie, side by side.
        truth: Name of the class of an image of the run; None for a file.
    """

    image: str
    dense: list[Guess]
    pruned: list[Guess]
    explained: str
    method: str
    agreement: float
    picture: str
    truth: str | None = None


def read_image(path: str | Path, spec: InputSpec, name: str | None = None) -> Tensor:
    """Returns an image file as a model's input, (3, height, width).

    Args:
        path: Of the file.
        spec: The input that the model expects.
        name: What to call it where it cannot be read; its path when absent.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        with Image.open(path) as file:
            image = as_rgb(file)
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its format is unknown" if unknown else getattr(error, "strerror", None) or error
        raise UsageError(f"The image {name or path} cannot be read ({reason}); give a PNG or JPEG file.") from error
    return Plain(spec)(image, ())


def probabilities(model: nn.Module, image: Tensor) -> Tensor:
    """Returns how probable each class is to a model, (classes,), for an image (3, height, width) as it takes them."""
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        return logits_of(model(image[None].to(device)))[0].float().softmax(0).cpu()


def guesses(model: nn.Module, image: Tensor, class_names: Sequence[str], count: int = SHOWN) -> list[Guess]:
    """Returns what a model takes an image for, the most probable classes first.

    Args:
        model: The classifier.
        image: (3, height, width), normalised as the model takes it.
        class_names: Of its outputs.
        count: How many classes at most.
    """
    best = probabilities(model, image).topk(min(count, len(class_names)))
    return [
        Guess(class_names[label], share)
        for share, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def map_pair(dense: nn.Module, pruned: nn.Module, image: Tensor, method: str, label: int | None = None) -> MapPair:
    """Returns the maps of both models for one class.

    Args:
        dense: The dense model.
        pruned: The pruned model.
        image: (3, height, width), normalised as the models take it.
        method: One of :func:`xpruner.explain.maps.map_methods`.
        label: Of the class; absent, the one that the dense model predicts.

    Raises:
        UsageError: If the method is unknown or cannot read a model.
    """
    if label is None:
        label = int(probabilities(dense, image).argmax())
    maps = [saliency(model, image[None], method, torch.tensor([label])) for model in (dense, pruned)]
    return MapPair(label, maps[0][0], maps[1][0], spearman(*maps).item())


def image_card(
    run: FinishedRun, source: str | Path | int, method: str = "relevance", label: int | None = None,
    output: Path | None = None,
) -> ImageCard:  # fmt: skip
    """Returns the card of an image, and writes its picture.

    Args:
        run: A finished run.
        source: Path of an image file, or the number of one of the run's images, as the cards count them.
        method: Of the maps.
        label: Of the class to explain; absent, the one that the dense model predicts. Of no effect where the method
            knows no class.
        output: The PNG to write; absent, one in ``explained`` in the run directory, named by image and method.

    Raises:
        UsageError: If the image cannot be read, or the method is unknown or cannot read a model.
        XPrunerError: If the picture cannot be written.
    """
    of_class = find_method(method).of_class
    spec, names = InputSpec.of(run.dense), different(run.class_names)
    image, truth = numbered_image(run, source) if isinstance(source, int) else (read_image(source, spec), None)
    pair = map_pair(run.dense, run.pruned, image, method, label)
    name = f"image-{source}" if isinstance(source, int) else Path(source).stem
    output = output or run.folder / "explained" / f"{name}-{method}.png"
    pixels = pixels_of(image, spec)
    write_png(output, side_by_side([pixels, *(heated(pixels, found.numpy()) for found in (pair.dense, pair.pruned))]))
    dense, pruned = (guesses(model, image, names) for model in (run.dense, run.pruned))
    explained = names[pair.label] if of_class else ANY_CLASS
    return ImageCard(str(source), dense, pruned, explained, method, pair.agreement, str(output), truth)


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
    return pixels, different(run.class_names)[label]
