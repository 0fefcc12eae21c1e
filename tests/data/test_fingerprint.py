"""What images are known by: not where they lie, but what they are."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from xpruner.data.fingerprint import fingerprint
from xpruner.data.sources import ClassFolders, Digits, Table


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "one" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "one" / name / f"{i}.png").write_bytes(png(10 * label + i))
    return tmp_path / "one"


def test_classes_and_counts_are_there(folder):
    found = fingerprint(ClassFolders(folder))
    assert (found["classes"], found["images a class"]) == (["cat", "dog"], [3, 3])


def test_a_moved_folder_is_the_same(folder):
    before = fingerprint(ClassFolders(folder))
    assert fingerprint(ClassFolders(folder.rename(folder.with_name("two")))) == before


def test_swapped_images_are_others(folder):
    before = fingerprint(ClassFolders(folder))
    (folder / "cat" / "0.png").rename(folder / "kept.png")
    (folder / "dog" / "0.png").rename(folder / "cat" / "0.png")
    (folder / "kept.png").rename(folder / "dog" / "0.png")
    after = fingerprint(ClassFolders(folder))
    assert after["checksum"] != before["checksum"]
    assert after["images a class"] == before["images a class"]


def table(labels, seeds) -> Table:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": png(seed), "path": None} for seed in seeds], "label": labels}
    return Table(datasets.Dataset.from_dict(rows, features=features), "t")


def test_tables_differ_by_labels_and_by_images():
    same, relabelled, redrawn = table([0, 1], [1, 2]), table([1, 0], [1, 2]), table([0, 1], [1, 3])
    checksums = [fingerprint(each)["checksum"] for each in (same, relabelled, redrawn)]
    assert fingerprint(table([0, 1], [1, 2]))["checksum"] == checksums[0]
    assert len(set(checksums)) == 3


def test_pixels_without_files_are_known_too():
    assert fingerprint(Digits()) == fingerprint(Digits())
    assert sum(fingerprint(Digits())["images a class"]) == 1797
