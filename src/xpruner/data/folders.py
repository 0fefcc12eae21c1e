"""Finds the image files in class folders, and counts the files that are skipped."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from timm.utils.misc import natural_key

from xpruner.data.rgb import image_extensions
from xpruner.errors import XPrunerError

HIDDEN, OUTSIDE, NO_FILE, NO_EXTENSION = "hidden", "outside of class folders", "not a file", "no extension"
"""Kinds of skipped files, besides extensions; broken links are "not a file"."""
LEFT_BEHIND = ("__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini")
"""Names without a leading dot that archives, network drives and Windows create; they count as hidden."""


@dataclass(frozen=True)
class Found:
    """How many files lie in a folder of class folders.

    Attributes:
        read: The image files, by extension in lower case.
        left_out: The skipped files, by kind: their extension, or one of the words above.
        empty: The class folders without an image file, each with its files by kind.
    """

    read: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    empty: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name never belongs to the data, such as ``.git`` or ``__MACOSX``."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def visible_folders(folder: Path) -> list[Path]:
    """Returns the folders in a folder that are not hidden, by name.

    Raises:
        XPrunerError: The folder cannot be read.
    """
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name))
    except OSError as error:
        raise _cannot_be_read(error) from error


def find_images(folder: Path) -> tuple[dict[str, list[str]], Found]:
    """Returns the image files of each class folder that has some, in natural order, and how many files were found.

    Links to folders are followed, except to a folder that contains the link.

    Args:
        folder: The folder of class folders.

    Raises:
        XPrunerError: A folder cannot be read.
    """
    known = image_extensions()
    images: dict[str, list[str]] = {}
    read, left_out, empty = Counter[str](), Counter[str](), {}
    real = folder.resolve()
    above = {str(real), *map(str, real.parents)}
    try:
        left_out.update(_kind_beside_classes(kind, known) for _, kind in _files(folder, set(), deep=False))
        for child in visible_folders(folder):
            files = list(_files(child, set(above)))
            kinds, own = Counter(kind for _, kind in files), [path for path, kind in files if kind in known]
            others = {kind: count for kind, count in kinds.items() if kind not in known}
            read.update({kind: count for kind, count in kinds.items() if kind in known})
            left_out.update(others)
            if own:
                images[child.name] = sorted(own, key=lambda path: (natural_key(path), path))
            else:
                empty[child.name] = others
    except OSError as error:
        raise _cannot_be_read(error) from error
    return images, Found(dict(read), dict(left_out), empty)


def _kind_beside_classes(kind: str, known: frozenset[str]) -> str:
    return OUTSIDE if kind in known else kind


def _files(folder: str | Path, seen: set[str], deep: bool = True) -> Iterator[tuple[str, str]]:
    """Yields the path and the kind of each file below a folder; none where its real path was seen already."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            at = Path(entry) if entry.is_symlink() else entry  # an entry does not detect a broken link
            if is_hidden(entry.name):
                yield from ((entry.path, HIDDEN) for _ in range(_count(entry)))
            elif at.is_dir():
                yield from _files(entry.path, seen) if deep else ()
            elif at.is_file():
                yield entry.path, Path(entry.name).suffix.lower() or NO_EXTENSION
            else:
                yield entry.path, NO_FILE


def _count(entry: os.DirEntry) -> int:
    """Returns how many files lie below something hidden, itself included."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(entry.path))


def _cannot_be_read(error: OSError) -> XPrunerError:
    return XPrunerError(f"Folder {error.filename} cannot be read ({error.strerror}); correct its permissions.")
