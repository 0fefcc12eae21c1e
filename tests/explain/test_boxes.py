"""Boxes of a file, and what a model sees of them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from xpruner.data import InputSpec
from xpruner.data.dataset import ImageDataset, Reader
from xpruner.data.sources import ClassFolders
from xpruner.errors import UsageError
from xpruner.explain.boxes import object_mask, read_boxes

SPEC = InputSpec((8, 8), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def run(tmp_path: Path) -> SimpleNamespace:
    """Three images of 16 x 8 pixels, of which the middle 8 x 8 are seen; the run has the last two."""
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 8)).save(path)
    return SimpleNamespace(images=ImageDataset(Reader(ClassFolders(tmp_path / "data"), 0), np.array([1, 2]), SPEC))


def written(folder: Path, *lines: str) -> Path:
    path = folder / "boxes.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_boxes_are_found_by_number_and_by_file(run, tmp_path):
    path = written(
        tmp_path, "class,image,left,top,right,bottom",
        "dog,dog/1.png,1,2,3,4", "cat,0,0,0,1.5,1", "dog, 1 ,5,6,7,8", "cat,cat/1.png,0,0,1,1",
    )  # fmt: skip
    assert read_boxes(path, run) == {0: [[0, 0, 1.5, 1]], 1: [[1, 2, 3, 4], [5, 6, 7, 8]]}


def test_a_box_is_cropped_with_its_image(run):
    """From column 4 of the picture on, 8 columns are seen: 2..6 leaves two of them, rows 4..8 the lower half."""
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[4:, :2] = True
    assert torch.equal(object_mask(run, 1, [[2, 4, 6, 8]]), expected)
    assert not object_mask(run, 1, [[0, 0, 3, 8]]).any()


def test_a_box_is_resized_with_its_image(run):
    run.images.spec = InputSpec((16, 16), *(SPEC.mean, SPEC.std))
    mask = object_mask(run, 0, [[4, 0, 8, 8], [4, 0, 12, 4]])
    expected = torch.ones(16, 16, dtype=torch.bool)
    expected[8:, 8:] = False
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["image,left,top,right", "0,1,1,2"], r"boxes\.csv has no column 'bottom'; its first line must be image,left"),
        (["image,left,top,right,bottom", "0,1,1,2,wide"], r"^Line 2 of .* holds no box"),
        (["image,left,top,right,bottom", "0,1,1"], r"^Line 2 of .* holds no box"),
        (["image,left,top,right,bottom", "cat/1.png,0,0,1,1"], r"^No line of .* by number, 0 to 1, or by class"),
        (["left,top,right,bottom,image", "0,0,1,1"], r"^No line of"),
        ([], r"has no column 'image'"),
    ],
)
def test_files_that_hold_no_boxes(run, tmp_path, lines, said):
    with pytest.raises(UsageError, match=said):
        read_boxes(written(tmp_path, *lines), run)


def test_a_file_that_cannot_be_read(run, tmp_path):
    with pytest.raises(UsageError, match=r"none\.csv cannot be read \(No such file or directory\); give a CSV file"):
        read_boxes(tmp_path / "none.csv", run)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.csv cannot be read \(.*decode.*\); give a CSV file"):
        read_boxes(tmp_path / "binary.csv", run)


def test_a_box_outside_of_its_picture_names_the_image(run):
    with pytest.raises(UsageError, match=r"The box \(0, 0, 17, 8\) of image 1 does not lie in 16 x 8 pixels"):
        object_mask(run, 1, [[0, 0, 17, 8]])
