"""Boxes that people drew around the objects of a run's images, and which pixels of the models' input they cover."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from xpruner.data.transforms import Plain
from xpruner.errors import UsageError, XPrunerError
from xpruner.explain.pictures import pixels_of
from xpruner.maps.metrics.faithfulness import box_mask
from xpruner.run.finished import FinishedRun

SIDES = ("left", "top", "right", "bottom")
HEADER = ",".join(("image", *SIDES))

Box = Sequence[float]
"""left, top, right, bottom in pixels of the picture as it lies in the data, turned upright; right and bottom are where
it ends, so that 0, 0, 1, 1 is the first pixel alone."""


def read_boxes(path: str | Path, run: FinishedRun) -> dict[int, list[Box]]:
    """Returns the boxes of a CSV file by the number of the run's image, in the order of the numbers.

    Args:
        path: Of the file. Its first line is ``image,left,top,right,bottom``, in any order and among other columns; each
            other line is a box. An image is its number among those of the run, or its class folder and file name, such
            as ``cat/17.jpg``; lines of other files are left out.
        run: Whose images they are.

    Raises:
        UsageError: If the file cannot be read, a column is missing, a line holds no numbers, or no line is of an image
            of the run.
    """
    lines = _lines(Path(path))
    numbers = _numbers(run)
    boxes: dict[int, list[Box]] = {}
    for image, sides in lines:
        if image in numbers:
            boxes.setdefault(numbers[image], []).append(sides)
    if not boxes:
        raise UsageError(
            f"No line of {path} is of an image of the run; name them by number, 0 to {len(run.images) - 1}, or by "
            "class folder and file, such as cat/17.jpg."
        )
    return dict(sorted(boxes.items()))


def object_mask(run: FinishedRun, number: int, boxes: Sequence[Box]) -> Tensor:
    """Returns which pixels of the models' input lie in an image's boxes, (height, width) bool.

    The boxes are resized and cropped with the picture; none is left where they lie in what the crop leaves out.

    Raises:
        UsageError: If a box is empty or reaches out of the picture.
        XPrunerError: If the picture cannot be read.
    """
    picture = run.images.reader.read(int(run.images.records[number]))
    if picture is None:
        raise XPrunerError(f"Image {number} of the run cannot be read; take its boxes out.")
    mask = box_mask(torch.tensor(boxes), (picture.height, picture.width), number)
    spec = run.images.spec
    seen = Plain(spec)(Image.fromarray(mask.byte().mul(255).numpy()).convert("RGB"))
    return torch.from_numpy(pixels_of(seen, spec)[..., 0] >= 0.5)


def _lines(path: Path) -> list[tuple[str, Box]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := [name for name in ("image", *SIDES) if name not in (rows.fieldnames or ())]:
                raise UsageError(f"{path} has no column {missing[0]!r}; its first line must be {HEADER}.")
            return [((row["image"] or "").strip(), _sides(row, path, rows.line_num)) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read ({reason}); give a CSV file that begins {HEADER}.") from error


def _sides(row: dict[str, str], path: Path, line: int) -> Box:
    try:
        return [float(row[side]) for side in SIDES]
    except (TypeError, ValueError) as error:
        raise UsageError(f"Line {line} of {path} holds no box; give {HEADER} as an image and four numbers.") from error


def _numbers(run: FinishedRun) -> dict[str, int]:
    """Returns the number of each image by what it may be called."""
    names = [run.images.reader.source.name(int(record)) for record in run.images.records]
    files = {"/".join(Path(name).parts[-2:]): number for number, name in enumerate(names)}
    return files | {str(number): number for number in range(len(names))}
