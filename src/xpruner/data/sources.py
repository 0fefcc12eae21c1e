"""Sources of images, all with the interface of ``Source``."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from xpruner.data.class_order import NATURAL, class_order
from xpruner.data.folders import Found, find_images
from xpruner.data.rgb import image_extensions, open_image
from xpruner.errors import UsageError

if TYPE_CHECKING:
    import datasets
    import pyarrow

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


class Source(Protocol):
    """Labelled images, decoded one at a time.

    Attributes:
        labels: int64 (images,).
        class_names: By label, where the source knows them.
        mirror: Whether a mirrored image still shows its class.
        found: How many files were read and skipped, where images are separate files.
    """

    labels: np.ndarray
    class_names: list[str] | None
    mirror: bool
    found: Found

    def open(self, record: int) -> Image.Image:
        """Returns an image in any mode; raises whatever its decoder raises if it is damaged."""
        ...

    def name(self, record: int) -> str:
        """Returns the name of an image in messages."""
        ...

    def sizes(self, records: np.ndarray) -> np.ndarray:
        """Returns the size of stored images in bytes, int64 (records,); -1 where an image is not stored."""
        ...

    def stored(self, record: int) -> bytes:
        """Returns an image as stored, or its pixels where none is stored; raises OSError if it cannot be read."""
        ...


class _NotStored(Source):
    """Base of the sources that hold pixels instead of encoded images."""

    found = Found()

    def sizes(self, records: np.ndarray) -> np.ndarray:
        return np.full(len(records), -1)

    def stored(self, record: int) -> bytes:
        return np.asarray(self.open(record)).tobytes()


class Digits(_NotStored):
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels in gray."""

    mirror = False

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self._pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)
        self.labels = bunch.target.astype(np.int64)
        self.class_names: list[str] | None = [str(digit) for digit in range(10)]

    def open(self, record: int) -> Image.Image:
        return Image.fromarray(self._pixels[record])

    def name(self, record: int) -> str:
        return f"digit {record}"


class ClassFolders:
    """Image files below one folder for each class; the labels follow :func:`class_order`.

    A folder without an image file is not a class.

    Args:
        folder: The folder of class folders.
        class_names: The classes by label; those found, when absent.
        order: Of the classes found, as for :func:`class_order`.

    Raises:
        UsageError: There are no images, or some of a class that ``class_names`` lacks.
        XPrunerError: A folder cannot be read.
    """

    mirror = True

    def __init__(self, folder: Path, class_names: list[str] | None = None, order: str = NATURAL) -> None:
        images, self.found = find_images(folder)
        if not images:
            there = ", ".join(f"{count} {kind}" for kind, count in self.found.left_out.items())
            raise UsageError(
                f"Folder {folder} holds no images ({', '.join(sorted(image_extensions()))}) in class folders"
                f"{there and f', but {there}'}; "
                f"give a folder of parquet files, or one that holds files such as {folder / 'cat' / '1.jpg'}."
            )
        names = class_names or class_order(images, order)
        if strange := sorted(images.keys() - set(names)):
            raise UsageError(
                f"Folder {folder} has the class {strange[0]!r}, which the training images lack; "
                f"remove its folder, or add training images of it."
            )
        self.class_names: list[str] | None = names
        self._paths = [path for name in names for path in images.get(name, [])]
        self.labels = np.repeat(np.arange(len(names)), [len(images.get(name, [])) for name in names])

    def open(self, record: int) -> Image.Image:
        return open_image(self._paths[record])

    def name(self, record: int) -> str:
        return self._paths[record]

    def sizes(self, records: np.ndarray) -> np.ndarray:
        paths = (Path(self._paths[record]) for record in records)
        return np.array([path.stat().st_size if path.exists() else -1 for path in paths], np.int64)

    def stored(self, record: int) -> bytes:
        return Path(self._paths[record]).read_bytes()


class Table:
    """The rows of a ``datasets`` table, one image and one label each.

    Args:
        table: A table on disk or in memory; only requested rows are read.
        title: Its name in messages.
        places: Folders in which files that the table names may lie; files elsewhere are not opened.

    Raises:
        UsageError: It has no column of images or none of whole-number labels.
    """

    mirror = True
    found = Found()

    def __init__(self, table: "datasets.Dataset", title: str, places: Sequence[Path] = ()) -> None:
        import datasets
        import pyarrow

        types = {field.name: field.type for field in table.data.schema}
        features = table.features
        encoded = [name for name, kind in types.items() if _holds_bytes(kind)]
        whole = [name for name, kind in types.items() if pyarrow.types.is_integer(kind)]
        images = [name for name in encoded if name in IMAGE_COLUMNS or isinstance(features[name], datasets.Image)]
        labels = [name for name in whole if name in LABEL_COLUMNS or isinstance(features[name], datasets.ClassLabel)]
        self._image = _preferred(images, IMAGE_COLUMNS, "encoded images", types, title)
        label = _preferred(labels, LABEL_COLUMNS, "whole-number labels", types, title)
        self._table = table
        self._title = title
        self._places = [place.resolve() for place in places]
        self.labels = table.data.column(label).cast(pyarrow.int64()).fill_null(-1).to_numpy()
        named = isinstance(features[label], datasets.ClassLabel)
        self.class_names: list[str] | None = features[label].names if named else None

    def open(self, record: int) -> Image.Image:
        return open_image(io.BytesIO(self.stored(record)))

    def name(self, record: int) -> str:
        return f"in row {record} of {self._title}"

    def sizes(self, records: np.ndarray) -> np.ndarray:
        import pyarrow.compute

        column = self._table.data.column(self._image)
        encoded = pyarrow.compute.struct_field(column, "bytes") if pyarrow.types.is_struct(column.type) else column
        return pyarrow.compute.binary_length(encoded).cast(pyarrow.int64()).fill_null(-1).to_numpy()[records]

    def stored(self, record: int) -> bytes:
        # 5 times as fast as indexing the table, which would format a row
        cell: Any = self._table.data.column(self._image)[record].as_py()
        encoded = cell["bytes"] if isinstance(cell, dict) else cell
        return self._file_named(cell) if encoded is None else encoded

    def _file_named(self, cell: Any) -> bytes:
        """Returns the file that a row without an image names; an untrusted table may name any file."""
        named = cell and cell.get("path")
        for place in self._places if named else ():
            path = (place / named).resolve()
            if path.is_relative_to(place):
                return path.read_bytes()
        raise OSError(f"its row holds no image, and {named!r} is not a file of the data set")


def _holds_bytes(kind: "pyarrow.DataType") -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _preferred(found: list[str], names: tuple[str, ...], what: str, columns: Iterable[str], title: str) -> str:
    for name in (*names, *found):
        if name in found:
            return name
    raise UsageError(
        f"{title} has no column of {what} among {', '.join(columns)}; call the column {' or '.join(names)}."
    )


@dataclass
class Torchvision(_NotStored):
    """A torchvision dataset, which must have ``targets`` and may have ``classes``."""

    dataset: Any
    title: str
    mirror: bool = True

    def __post_init__(self) -> None:
        self.labels = np.asarray(self.dataset.targets, dtype=np.int64)
        classes = getattr(self.dataset, "classes", None)
        self.class_names: list[str] | None = classes and [_first_synonym(name) for name in classes]

    def open(self, record: int) -> Image.Image:
        return self.dataset[record][0]

    def name(self, record: int) -> str:
        return f"{record} of {self.title}"


def _first_synonym(name: str | tuple[str, ...]) -> str:
    return name if isinstance(name, str) else name[0]  # torchvision names ImageNet's classes by tuples of synonyms
