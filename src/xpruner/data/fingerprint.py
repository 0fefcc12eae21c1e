"""Fingerprint of a source of images: its classes, how many images each has, and a checksum of them all."""

import hashlib
from typing import Any

import numpy as np

from xpruner.data.sources import Source
from xpruner.data.splits import Splits

SIZES, CONTENTS = 100_000, 256
"""Images, evenly spread, whose sizes and contents enter the checksum."""


def fingerprints(data: Splits) -> dict[str, dict[str, Any]]:
    """Returns the :func:`fingerprint` of the training images and of the test images, whichever of them are used."""
    parts = {"training images": data.train, "test images": data.test}
    return {name: fingerprint(part.reader.source) for name, part in parts.items()}


def fingerprint(source: Source) -> dict[str, Any]:
    """Returns ``classes``, ``images a class`` and a ``checksum`` of labels, sizes and the contents of some images.

    The location of the images is not part of it, so that they can be moved.
    """
    digest = hashlib.sha256(source.labels.astype(np.int64).tobytes())
    digest.update(source.sizes(_spread(len(source.labels), SIZES)).astype(np.int64).tobytes())
    for record in _spread(len(source.labels), CONTENTS).tolist():
        digest.update(_content(source, record))
    names = source.class_names or []
    counts = np.bincount(source.labels, minlength=len(names)).tolist()
    return {"classes": list(names), "images a class": counts, "checksum": digest.hexdigest()[:16]}


def _spread(size: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(np.int64))


def _content(source: Source, record: int) -> bytes:
    try:
        return source.stored(record)
    except OSError:  # an unreadable image is reported elsewhere
        return b""
