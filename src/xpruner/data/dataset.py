"""Images of a source as tensors, and their batches."""

import copy
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xpruner.data.rgb import as_rgb
from xpruner.data.sources import Source
from xpruner.data.spec import InputSpec
from xpruner.data.transforms import make_transform
from xpruner.errors import UsageError, XPrunerError

logger = logging.getLogger("xpruner")


class UnreadableImagesError(XPrunerError):
    """Too many images of a source cannot be read."""

    def __init__(self, message: str) -> None:
        # A loader process forwards an error as the text of its traceback, whose last line is this sentence.
        super().__init__(message.strip().rpartition(f"{type(self).__name__}: ")[2])


class Reader:
    """Reads the images of a source; unreadable ones are logged by name, up to a limit.

    Args:
        source: The images.
        max_unreadable: How many of them may be unreadable.
        cache: Whether datasets keep decoded and resized images in memory.
    """

    def __init__(self, source: Source, max_unreadable: int, cache: bool = False) -> None:
        self.source = source
        self.max_unreadable = max_unreadable
        self.cache = cache
        count = len(source.labels)
        self._unreadable = torch.zeros(count, dtype=torch.bool).share_memory_()  # by all loader processes
        self._tried = np.zeros(count, bool)

    def read(self, record: int) -> Image.Image | None:
        """Returns an image upright and as RGB, or None if it is unreadable.

        Raises:
            UnreadableImagesError: It is one unreadable image too many.
        """
        image = self._decoded(record)
        if isinstance(image, Image.Image):
            return image
        self._note(record, image)
        return None

    def readable(self, records: np.ndarray, count: int | None = None) -> np.ndarray:
        """Returns the records whose images can be read, in their order, or the first ``count`` of them.

        Each is decoded for this check, once in the life of the reader.

        Raises:
            UnreadableImagesError: One image too many is unreadable, or none can be read.
        """
        count = len(records) if count is None else count
        found, left = records[:0], records
        while len(left) and len(found) < count:
            some, left = np.split(left, [count - len(found)])
            self._try(some)
            found = np.concatenate([found, self.without_unreadable(some)])
        if len(records) and count and not len(found):
            raise _nothing_readable(len(records))
        return found

    @property
    def unreadable(self) -> int:
        """How many images are known to be unreadable."""
        return int(self._unreadable.sum())

    def without_unreadable(self, records: np.ndarray) -> np.ndarray:
        """Returns the records without those whose images are known to be unreadable; decodes nothing."""
        return records[~self._unreadable.numpy()[records]]

    def _decoded(self, record: int) -> Image.Image | Exception:
        try:
            return as_rgb(self.source.open(record))
        except Exception as error:  # damaged bytes make decoders raise nearly anything
            return error

    def _try(self, records: np.ndarray) -> None:
        new = records[~self._tried[records]].tolist()
        with ThreadPoolExecutor() as pool:  # decoders run side by side
            for record, error in zip(new, pool.map(self._error, new), strict=True):
                if error is not None:
                    self._note(record, error)
        self._tried[records] = True

    def _error(self, record: int) -> Exception | None:
        image = self._decoded(record)
        return image if isinstance(image, Exception) else None

    def _note(self, record: int, error: Exception) -> None:
        name = self.source.name(record)
        if not self._unreadable[record]:
            self._unreadable[record] = True
            logger.warning(
                "Image %s cannot be read (%s); it is left out, and in training the next one takes its place.",
                name, error,
            )  # fmt: skip
        count = int(self._unreadable.sum())
        if count > self.max_unreadable:
            raise UnreadableImagesError(
                f"{count} images cannot be read, the last of them {name}, and max_unreadable allows "
                f"{self.max_unreadable}; repair or remove the files named in the log, or raise max_unreadable."
            )


def _nothing_readable(count: int) -> UnreadableImagesError:
    return UnreadableImagesError(f"None of these {count} images can be read; repair the files named in the log.")


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images as normalised float tensors (3, height, width), each with its label.

    The augmentation of an image depends only on the seed, the epoch and the image, so that neither the number of loader
    processes nor an interruption changes the model's inputs.

    Args:
        reader: Reads the images.
        records: Which of the source's images, by their number there (n,).
        spec: The input that the model expects.
        augment: ``none``, ``light`` or ``timm``.
        seed: Of the augmentation.
    """

    def __init__(
        self, reader: Reader, records: np.ndarray, spec: InputSpec, augment: str = "none", seed: int = 0
    ) -> None:
        self.reader = reader
        self.records = records
        self.spec = spec
        self.seed = seed
        self.epoch = 0
        self._transform = make_transform(augment, spec, reader.source.mirror)
        self._places: np.ndarray | None = None  # by the source's label, where the images are of some classes only
        self._kept: dict[int, Any] = {}  # by record, the deterministic half of the transform

    @property
    def labels(self) -> Tensor:
        """The label of every image (n,), read without decoding any."""
        labels = self.reader.source.labels[self.records]
        return torch.from_numpy(labels if self._places is None else self._places[labels])

    def plain(self, size: int | None = None) -> "ImageDataset":
        """Returns the same images, or the first ``size`` of them, without augmentation."""
        plain = ImageDataset(self.reader, self.records[:size], self.spec)
        plain._places = self._places
        return plain

    def of_classes(self, labels: Sequence[int]) -> "ImageDataset":
        """Returns the images of some classes, labelled by their place among these, with the same augmentation."""
        chosen = torch.isin(self.labels, torch.tensor(list(labels))).nonzero().flatten().tolist()
        some = self.only(chosen)
        before = some.labels.numpy()
        source = self.reader.source.labels[some.records]
        some._places = np.full(int(self.reader.source.labels.max()) + 1, -1)
        for place, label in enumerate(labels):
            some._places[source[before == label]] = place
        return some

    def only(self, numbers: Sequence[int]) -> "ImageDataset":
        """Returns some of the images, by their number here, with the same augmentation."""
        return self._of(self.records[list(numbers)])

    def readable(self, count: int | None = None) -> "ImageDataset":
        """Returns the readable images, or the first ``count`` of them, for figures: in training, a neighbour replaces
        an unreadable image of a batch.

        Raises:
            UnreadableImagesError: One image too many is unreadable, or none can be read.
        """
        return self._of(self.reader.readable(self.records, count))

    def _of(self, records: np.ndarray) -> "ImageDataset":
        some = copy.copy(self)
        some.records = records
        return some

    def set_epoch(self, epoch: int) -> None:
        """Chooses the augmentation of one epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        first = range(len(self))[index]
        for offset in range(len(self)):
            record = int(self.records[(first + offset) % len(self)])
            settled = self._settled(record)
            if settled is not None:
                pixels = self._transform.vary(settled, (self.seed, self.epoch, record))
                label = self.reader.source.labels[record]
                return pixels, int(label if self._places is None else self._places[label])
        raise _nothing_readable(len(self))

    def _settled(self, record: int) -> Any:
        if record in self._kept:
            return self._kept[record]
        image = self.reader.read(record)
        settled = None if image is None else self._transform.settle(image)
        if self.reader.cache and settled is not None:
            self._kept[record] = settled
        return settled


class _AtEpoch(Dataset[tuple[Tensor, int]]):
    """A dataset at one epoch, without a ``set_epoch``: accelerate's loaders would call it with their own count."""

    def __init__(self, dataset: Any, epoch: int) -> None:
        self._dataset = copy.copy(dataset)
        self._dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._dataset[index]


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    epoch: int = 0,
    start: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    workers: int = 0,
) -> DataLoader:
    """Returns the batches of one epoch: images (batch, 3, height, width) and labels (batch,).

    Their order depends only on the seed and the epoch; the global random state is neither read nor changed.

    Args:
        dataset: The images; any map-style dataset, whose ``set_epoch`` is called on a copy if it has one.
        batch_size: Images a batch.
        seed: Of the order.
        epoch: Counted from 0; chooses the order and the augmentation.
        start: Batches of this epoch to skip, without loading their images.
        shuffle: False for the order of the dataset.
        drop_last: Leave out a last batch that is not full.
        workers: Loader processes.
    """
    size = len(dataset)  # type: ignore[arg-type]
    order = np.random.default_rng((seed, epoch)).permutation(size) if shuffle else np.arange(size)
    return DataLoader(
        _AtEpoch(dataset, epoch) if hasattr(dataset, "set_epoch") else dataset,
        batch_size,
        sampler=order[start * batch_size :].tolist(),
        drop_last=drop_last,
        num_workers=workers,
        generator=torch.Generator().manual_seed(seed),
    )


def calibration_batches(images: Dataset, batch_size: int, workers: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Returns all batches of some images in their order, after checking that the images differ.

    Raises:
        UsageError: There is only one image, or all are the same.
    """
    found = list(batches(images, batch_size, seed=0, shuffle=False, workers=workers))
    first, count = found[0][0][:1], sum(len(labels) for _, labels in found)
    if all((batch == first).all() for batch, _ in found):
        alike = "there is only one" if count == 1 else f"all {count} are the same"
        raise UsageError(
            f"The calibration images give no evidence about the units, as {alike}; check the images, or raise "
            "data.calibration_size."
        )
    return found
