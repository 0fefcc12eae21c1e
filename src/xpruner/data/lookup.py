"""Finds the images of a dataset by its name, and which of them are for testing."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from timm.data import create_dataset

from xpruner.data.class_order import NATURAL
from xpruner.data.folders import is_hidden, visible_folders
from xpruner.data.sources import ClassFolders, Digits, Source, Table, Torchvision
from xpruner.errors import UsageError, XPrunerError, unknown

HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "imagenet": "ILSVRC/imagenet-1k"}
SPLITS = {
    "train": ("train", "training", "trainset"),
    "test": ("test", "testing", "testset"),
    "validation": ("val", "valid", "validation", "dev", "eval"),
}
"""Names of splits; case is ignored."""
STREAMS = ("wds", "tfds", "hfids")
WRITTEN = ("torch/mnist", "torch/kmnist", "torch/qmnist")  # mirrored writing changes its class

Sources = tuple[Source, Source | None]
T = TypeVar("T")


def find_sources(name: str, root: str | None = None, order: str = NATURAL) -> Sources:
    """Returns the training images of a dataset, and its test images if it has its own.

    The test images are its test split, else its validation split; ImageNet's are its validation split, as its test
    split is published without labels. :data:`SPLITS` lists the names of splits.

    Args:
        name: As in ``DataConfig``.
        root: The folder of a named dataset, or where to store a fetched one.
        order: Of class folders, as for ``class_order``.

    Raises:
        UsageError: There is no such dataset or folder, or it is not laid out as it must be.
        XPrunerError: It cannot be fetched, or its files are damaged.
    """
    test_splits = ("validation", "test") if name == "imagenet" else ("test", "validation")
    kind, _, rest = name.partition("/")
    if name == "digits":
        return Digits(), None
    if name in HUB_NAMES:
        return _in_folder(Path(root), test_splits, order) if root else _on_hub(HUB_NAMES[name], None, test_splits)
    if kind == "hfds":
        return _on_hub(rest, root, test_splits)
    if kind == "torch":
        return _in_torchvision(name, root)
    if kind in STREAMS:
        raise UsageError(f"Dataset {name!r} is a stream, which cannot be shuffled exactly; give a folder or hfds/...")
    if kind != name or Path(name).exists():
        return _in_folder(Path(name), test_splits, order)
    known = ("digits", *HUB_NAMES, "hfds/<user>/<name>", "torch/<name>", "the path of a folder")
    raise unknown("dataset", name, known)


def _in_folder(folder: Path, test_splits: Sequence[str], order: str) -> Sources:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UsageError(f"Dataset {str(folder)!r} is not a folder that exists; correct the path.")
    if files := _parquet_files(folder) or [file for child in visible_folders(folder) for file in _parquet_files(child)]:
        return _in_parquet(folder, files, test_splits)
    folders = visible_folders(folder)
    named = {child.name: child for child in folders}
    if not any(visible_folders(child) for child in folders if split_of(child.name) == "train"):
        if folders and all(map(split_of, named)):
            raise UsageError(
                f"The folders in {folder} are named like splits ({', '.join(named)}), but none holds class folders of "
                f"training images; give a folder that holds files such as {folder / 'train' / 'cat' / '1.jpg'}."
            )
        return ClassFolders(folder, order=order), None
    train_folder, test_folder = _train_and_test(named, test_splits, f"Folder {folder}")
    train = ClassFolders(train_folder, order=order)
    return train, ClassFolders(test_folder, train.class_names) if test_folder else None


def split_of(name: str) -> str | None:
    """Returns which of the :data:`SPLITS` a name stands for; None if none."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def _train_and_test(named: Mapping[str, T], test_splits: Sequence[str], place: str) -> tuple[Any, T | None]:
    """Returns the training split and, for testing, the first of the other splits that exists."""
    tests = (_of_split(named, split, place) for split in test_splits)
    return _of_split(named, "train", place), next((test for test in tests if test is not None), None)


def _of_split(named: Mapping[str, T], split: str, place: str) -> T | None:
    names = [name for name in named if split_of(name) == split]
    if len(names) > 1:
        raise UsageError(f"{place} has {names[0]!r} and {names[1]!r}, both for the same split; keep one of them.")
    return named[names[0]] if names else None


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.suffix.lower() == ".parquet" and not is_hidden(file.name))


def _in_parquet(folder: Path, files: list[Path], test_splits: Sequence[str]) -> Sources:
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of_file(file.relative_to(folder)), []).append(file)
    train = by_split.get("train") or by_split.get(None)
    if not train:
        raise UsageError(f"Folder {folder} has no train*.parquet beside {files[0].name}; add the training images.")
    test = next((by_split[split] for split in test_splits if split in by_split), None)
    return _parquet_table(train, folder), _parquet_table(test, folder) if test else None


def _split_of_file(file: Path) -> str | None:
    """Returns the split that the first word of a file's name, or else of its folder's name, stands for."""
    words = re.findall("[a-z]+", f"{file.stem} {file.parent.name}".lower())
    return next(filter(None, map(split_of, words)), None)


def _parquet_table(files: list[Path], folder: Path) -> Table:
    import datasets

    title = str(files[0]) if len(files) == 1 else f"{files[0]} and the {len(files) - 1} after it"
    try:
        table = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:  # from pyarrow, datasets or the file system
        raise XPrunerError(f"{title} cannot be read ({_reason(error)}); fetch the files again.") from error
    return Table(table, title, [folder])


def _on_hub(name: str, cache: str | None, test_splits: Sequence[str]) -> Sources:
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        splits = datasets.load_dataset(name, cache_dir=cache)
    except Exception as error:  # from the network, the hub's client or the file system
        raise XPrunerError(
            f"Dataset {name!r} cannot be fetched from the hub ({_reason(error)}); give as root, or as the name, a "
            f"folder with its train*.parquet and test*.parquet files, or with train and test folders of class folders."
        ) from error
    filled = {split: table for split, table in splits.items() if len(table)}
    train, test = _train_and_test(filled, test_splits, f"Dataset {name!r}")
    if train is None:
        raise UsageError(f"Dataset {name!r} has no train split, only {', '.join(splits)}; give another dataset.")
    places = [Path(place) for place in (cache, datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE) if place]
    test_source = None if test is None else Table(test, f"{name} (test)", places)
    return Table(train, f"{name} (train)", places), test_source


def _in_torchvision(name: str, root: str | None) -> Sources:
    if root is None:
        raise UsageError(f"Dataset {name!r} needs a folder to lie in; give it as root.")
    if name in ("torch/folder", "torch/image_folder"):
        raise UsageError(f"Dataset {name!r} is a folder of images; give the path of the folder as the name.")
    try:
        train, test = (create_dataset(name, root, split=split, download=True) for split in ("train", "validation"))
        mirror = name not in WRITTEN
        return Torchvision(train, f"{name} (train)", mirror), Torchvision(test, f"{name} (test)", mirror)
    except Exception as error:  # from the network or the file system; timm asserts that it knows the name
        raise XPrunerError(
            f"Dataset {name!r} cannot be read from {root} or fetched ({_reason(error)}); check its name and its folder."
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
