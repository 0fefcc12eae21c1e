"""Finds the images that a dataset's name stands for, and which of them are for testing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from xpruner._compat import declare_torchvision_ops
from xpruner.data.sources import ClassFolders, Digits, Source, Table, Torchvision
from xpruner.errors import UsageError, XPrunerError, unknown

declare_torchvision_ops()

from timm.data import create_dataset

HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "imagenet": "ILSVRC/imagenet-1k"}
TEST_SPLITS = ("test", "val", "validation", "valid")
STREAMS = ("wds", "tfds", "hfids")
WRITTEN = ("torch/mnist", "torch/kmnist", "torch/qmnist")  # mirrored writing is other writing

Sources = tuple[Source, Source | None]
T = TypeVar("T")


def find_sources(name: str, root: str | None = None) -> Sources:
    """Returns the training images of a dataset, and its test images if it sets some aside itself.

    The test images are its ``test`` split or else its validation split; ImageNet's are those for validation, as its
    test split is published without labels.

    Args:
        name: As in ``DataConfig``.
        root: The folder of a named dataset, or where to keep what is fetched.

    Raises:
        UsageError: There is no such dataset or folder, or it is not laid out as it must be.
        XPrunerError: It cannot be fetched, or its files are damaged.
    """
    test_splits = (*TEST_SPLITS[1:], "test") if name == "imagenet" else TEST_SPLITS
    kind, _, rest = name.partition("/")
    if name == "digits":
        return Digits(), None
    if name in HUB_NAMES:
        return _in_folder(Path(root), test_splits) if root else _on_hub(HUB_NAMES[name], None, test_splits)
    if kind == "hfds":
        return _on_hub(rest, root, test_splits)
    if kind == "torch":
        return _in_torchvision(name, root)
    if kind in STREAMS:
        raise UsageError(f"Dataset {name!r} is a stream, which cannot be shuffled exactly; give a folder or hfds/...")
    if kind != name or Path(name).exists():
        return _in_folder(Path(name), test_splits)
    known = ("digits", *HUB_NAMES, "hfds/<user>/<name>", "torch/<name>", "the path of a folder")
    raise unknown("dataset", name, known)


def _in_folder(folder: Path, test_splits: Sequence[str]) -> Sources:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UsageError(f"Dataset {str(folder)!r} is not a folder that exists; correct the path.")
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("*/*.parquet"))
    if files:
        return _in_parquet(folder, files, test_splits)
    if not (folder / "train").is_dir():
        return ClassFolders(folder), None
    train = ClassFolders(folder / "train")
    test = _first({split: folder / split for split in test_splits if (folder / split).is_dir()}, test_splits)
    return train, ClassFolders(test, train.class_names) if test else None


def _in_parquet(folder: Path, files: list[Path], test_splits: Sequence[str]) -> Sources:
    named = {split: [file for file in files if file.name.startswith(split)] for split in ("train", *test_splits)}
    train = named["train"] or [file for file in files if not file.name.startswith(tuple(test_splits))]
    if not train:
        raise UsageError(f"Folder {folder} has no train*.parquet beside {files[0].name}; add the training images.")
    test = _first(named, test_splits)
    return _parquet_table(train), _parquet_table(test) if test else None


def _parquet_table(files: list[Path]) -> Table:
    import datasets

    title = str(files[0]) if len(files) == 1 else f"{files[0]} and the {len(files) - 1} after it"
    try:
        table = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:  # from pyarrow, datasets or the file system
        raise XPrunerError(f"{title} cannot be read ({_reason(error)}); fetch the files again.") from error
    return Table(table, title)


def _on_hub(name: str, cache: str | None, test_splits: Sequence[str]) -> Sources:
    import datasets

    try:
        splits = datasets.load_dataset(name, cache_dir=cache)
    except Exception as error:  # from the network, the hub's client or the file system
        raise XPrunerError(
            f"Dataset {name!r} cannot be fetched from the hub ({_reason(error)}); give as root, or as the name, a "
            f"folder with its train*.parquet and test*.parquet files, or with train and test folders of class folders."
        ) from error
    if "train" not in splits:
        raise UsageError(f"Dataset {name!r} has no train split, only {', '.join(splits)}; give another dataset.")
    test = _first(splits, test_splits)
    return Table(splits["train"], f"{name} (train)"), Table(test, f"{name} (test)") if test else None


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


def _first(splits: Mapping[str, T], order: Sequence[str]) -> T | None:
    return next((splits[split] for split in order if splits.get(split)), None)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
