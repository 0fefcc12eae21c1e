"""Finds images that are both trained on and measured on."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from xpruner.data.dataset import ImageDataset
from xpruner.data.sources import Source

MOST_IMAGES, MOST_BYTES = 20_000, 2_000_000_000
"""Of training and other images together; larger data are not searched."""


def find_duplicates(train: ImageDataset, others: Iterable[ImageDataset]) -> list[tuple[str, str]]:
    """Returns the images that are also among the training images, byte for byte.

    Only images of equal size are read. Images that are not stored encoded are skipped; nothing is searched where there
    are more than :data:`MOST_IMAGES` or more than :data:`MOST_BYTES`.

    Args:
        train: The training images.
        others: Images that figures are measured on.

    Returns:
        Pairs of names: a training image and the same image among the others.
    """
    parts = [(part.reader.source, part.records) for part in (train, *others)]
    if sum(len(records) for _, records in parts) > MOST_IMAGES:
        return []
    sizes = [source.sizes(records) for source, records in parts]
    if sum(size.sum() for size in sizes) > MOST_BYTES:
        return []
    trained = dict(_hashed(*parts[0], sizes[0], np.concatenate(sizes[1:])))
    return [
        (trained[content], name)
        for (source, records), size in zip(parts[1:], sizes[1:], strict=True)
        for content, name in _hashed(source, records, size, sizes[0])
        if content in trained
    ]


def _hashed(source: Source, records: np.ndarray, sizes: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[bytes, str]]:
    """Yields a hash of each image of one of the wanted sizes, and its name."""
    for record in records[np.isin(sizes, wanted[wanted >= 0])].tolist():
        try:
            yield hashlib.sha256(source.stored(record)).digest(), source.name(record)
        except OSError:  # it is unreadable, which is reported elsewhere
            continue
