"""Images that are on both sides are found, and nothing is read in vain."""

import logging
from pathlib import Path

import numpy as np
import pytest

from xpruner.config import DataConfig
from xpruner.data import duplicates, load_data
from xpruner.data.sources import ClassFolders

from .conftest import paint, png, write_parquet


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight images of as many greys for training, two others for testing."""
    for number in range(10):
        split = "train" if number < 8 else "test"
        paint(tmp_path / split / ("cat" if number % 2 else "dog") / f"{number}.png", (20 * number,) * 3)
    return tmp_path


def pairs_of(config, spec):
    splits = load_data(config, spec, seed=0)
    return duplicates.find_duplicates(splits.train, [part for part in (splits.val, splits.test) if part])


def test_images_that_all_differ_are_no_duplicates(folder, spec, caplog):
    assert pairs_of(DataConfig(str(folder)), spec) == []
    assert "among the training images" not in caplog.text


def test_a_test_image_under_another_name_is_found_and_told_once(folder, spec, caplog):
    trained, copy = folder / "train" / "cat" / "3.png", folder / "test" / "dog" / "copy.png"
    copy.write_bytes(trained.read_bytes())
    with caplog.at_level(logging.WARNING, "xpruner"):
        assert pairs_of(DataConfig(str(folder)), spec) == [(str(trained), str(copy))]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"1 images that accuracy is measured on are among the training images too, such as {copy}, ")


def test_copies_in_a_folder_of_which_images_are_held_out_are_found(tmp_path, spec):
    """Of two classes of two equal images each, one of each class is held out."""
    for name, grey in (("cat", 10), ("dog", 20)):
        for number in range(2):
            paint(tmp_path / name / f"{number}.png", (grey,) * 3)
    assert len(pairs_of(DataConfig(str(tmp_path)), spec)) == 2


def test_images_held_out_for_tuning_count_too(folder, spec):
    paint(folder / "train" / "dog" / "copy.png", (60,) * 3)
    paint(folder / "train" / "cat" / "another.png", (60,) * 3)
    assert len(pairs_of(DataConfig(str(folder), val_size=9), spec)) >= 1


def test_rows_of_a_table_are_compared_by_their_bytes(tmp_path, spec):
    images = [png((10 * number,) * 3) for number in range(4)]
    write_parquet(tmp_path / "train.parquet", images, [0, 1, 0, 1])
    write_parquet(tmp_path / "test.parquet", [png((99,) * 3), images[2]], [0, 1])
    ((train, test),) = pairs_of(DataConfig(str(tmp_path)), spec)
    assert train.startswith("in row 2 of") and test.startswith("in row 1 of")


def test_pixels_that_are_no_files_are_not_compared(spec):
    assert pairs_of(DataConfig("digits"), spec) == []


def test_only_images_of_one_size_are_read(folder, spec, monkeypatch):
    splits = load_data(DataConfig(str(folder)), spec, seed=0)
    read = []
    monkeypatch.setattr(ClassFolders, "stored", lambda self, record: read.append(self.name(record)) or b"")
    monkeypatch.setattr(ClassFolders, "sizes", lambda self, records: np.arange(len(records)) + len(records))
    assert duplicates.find_duplicates(splits.train, [splits.test]) == [] and not read  # sizes 8 to 15, and 2 and 3


@pytest.mark.parametrize(("limit", "least"), [("MOST_IMAGES", 9), ("MOST_BYTES", 100)])
def test_large_data_are_left_alone(folder, spec, monkeypatch, limit, least):
    (folder / "test" / "dog" / "copy.png").write_bytes((folder / "train" / "cat" / "3.png").read_bytes())
    monkeypatch.setattr(duplicates, limit, least)
    assert pairs_of(DataConfig(str(folder)), spec) == []
