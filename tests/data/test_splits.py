"""Who gets which images, and what is refused."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xpruner.config import DataConfig
from xpruner.data import InputSpec, batches, load_data
from xpruner.errors import UsageError, XPrunerError

from .conftest import BLACK, WHITE, paint, png, write_parquet

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


def records(dataset) -> set[int]:
    return set(dataset.records.tolist())


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten black cats and ten white dogs to train with, two of each to test with."""
    for split, count in (("train", 10), ("test", 2)):
        for name, colour in (("cat", BLACK), ("dog", WHITE)):
            for number in range(count):
                paint(tmp_path / split / name / f"{number}.png", colour)
    return tmp_path


def test_digits_hold_out_a_fifth_for_testing_and_say_so(spec, caplog):
    with caplog.at_level(logging.INFO, "xpruner"):
        splits = load_data(DataConfig("digits"), spec, seed=0)
    assert "359 of its 1797 training images are held out" in caplog.text
    assert len(splits.train) == 1438 and len(splits.test) == 359 and splits.val is None
    assert records(splits.train) | records(splits.test) == set(range(1797))
    assert splits.class_names == list("0123456789") and splits.num_classes == 10
    assert splits.train[0][0].shape == (3, 32, 32)


def test_the_share_for_testing_can_be_chosen(spec):
    splits = load_data(DataConfig("digits", test_share=0.5), spec, seed=0)
    assert len(splits.test) == 898 and len(splits.train) == 899


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_for_testing_that_leaves_nothing_is_refused(spec, share):
    with pytest.raises(UsageError, match=f"test_share is {share}"):
        load_data(DataConfig("digits", test_share=share), spec, seed=0)


def test_own_test_images_are_all_used(folder, spec):
    splits = load_data(DataConfig(str(folder)), spec, seed=0)
    assert splits.class_names == ["cat", "dog"]
    assert len(splits.train) == 20 and splits.test.labels.tolist() == [0, 0, 1, 1]
    for images, labels in batches(splits.test, 2, seed=0):
        assert torch.equal(images[:, 0, 0, 0], labels * 2.0 - 1)  # black cats, white dogs


def test_validation_images_do_not_depend_on_how_many_are_trained_with(folder, spec):
    config = DataConfig(str(folder), val_size=5)
    every, few = (load_data(replace(config, train_size=size), spec, seed=0) for size in (None, 4))
    assert len(every.val) == 5 and len(every.train) == 15 and len(few.train) == 4
    assert records(every.val) == records(few.val)
    assert records(few.train) < records(every.train) and not records(every.train) & records(every.val)


def test_calibration_images_are_training_images_without_augmentation(spec):
    splits = load_data(DataConfig("digits", val_size=100, calibration_size=50), spec, seed=0)
    assert len(splits.calibration) == 50
    assert records(splits.calibration) < records(splits.train)
    assert torch.equal(splits.calibration[3][0], splits.train.plain()[3][0])
    assert not torch.equal(
        torch.stack([image for image, _ in splits.calibration]),
        torch.stack([splits.train[index][0] for index in range(50)]),
    )


def test_seed_chooses_the_training_images_but_never_those_held_out(spec):
    config = DataConfig("digits", train_size=100, val_size=100, test_size=50)
    first, again, other = (load_data(config, spec, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.train.records, again.train.records)
    assert records(first.train) != records(other.train) and records(first.val) == records(other.val)
    assert records(first.test) == records(other.test)


def test_calibration_is_reduced_to_the_training_images(folder, spec, caplog):
    with caplog.at_level(logging.INFO, "xpruner"):
        splits = load_data(DataConfig(str(folder), calibration_size=30), spec, seed=0)
    assert len(splits.calibration) == 20 and "reduced to the 20 training images" in caplog.text


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train_size": 21}, "train_size is 21, but must lie in 1..20"),
        ({"train_size": 16, "val_size": 5}, "train_size is 16, but must lie in 1..15"),
        ({"train_size": 0}, "train_size is 0"),
        ({"val_size": 20}, "val_size is 20, but must lie in 0..19"),
        ({"val_size": -1}, "val_size is -1"),
        ({"test_size": 5}, "test_size is 5, but must lie in 1..4"),
        ({"calibration_size": 0}, "calibration_size is 0"),
        ({"calibration_size": 1}, "calibration_size is 1, but must be 2 or more"),
    ],
)
def test_sizes_that_are_not_there_are_refused(folder, spec, sizes, message):
    with pytest.raises(UsageError, match=message):
        load_data(DataConfig(str(folder), **sizes), spec, seed=0)


def test_images_are_held_out_by_class(tmp_path, spec):
    """Of a long tail each class with two images has one on either side, and none gives its last one for tuning; of
    digits each gives a fifth."""
    for name, count in (("a", 20), ("b", 5), ("c", 2), ("d", 1)):
        for number in range(count):
            paint(tmp_path / name / f"{number}.png", (number,) * 3)
    splits = load_data(DataConfig(str(tmp_path), val_size=4), spec, seed=0)
    by_class = [part.labels.bincount(minlength=4).tolist() for part in (splits.test, splits.val, splits.train)]
    assert by_class[0] == [4, 1, 1, 0]
    assert (sum(by_class[1]), by_class[1][2:], min(by_class[2])) == (4, [0, 0], 1)
    digits = load_data(DataConfig("digits"), spec, seed=0)
    assert digits.test.labels.bincount().tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_single_images_of_each_class_cannot_be_held_out(tmp_path, spec):
    for name in ("cat", "dog"):
        paint(tmp_path / name / "1.png")
    with pytest.raises(UsageError, match="has one image of each class and no test images"):
        load_data(DataConfig(str(tmp_path)), spec, seed=0)


def test_classes_without_training_images_and_empty_folders_are_named_once(folder, spec, caplog):
    (folder / "train" / "owl").mkdir()
    (folder / "train" / "yak").mkdir()
    (folder / "train" / "yak" / "1.heic").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "xpruner"):
        splits = load_data(DataConfig(str(folder), train_size=2, calibration_size=2), spec, seed=7)
    assert splits.train.labels.tolist() == [0, 0] and splits.class_names == ["cat", "dog"]
    said = [record.getMessage() for record in caplog.records if "among" not in record.getMessage()]
    assert said == [
        "Folder 'owl' holds no image and is not a class; it holds nothing.",
        "Folder 'yak' holds no image and is not a class; it holds 1 .heic.",
        "1 of 2 classes have no training images, so there is no evidence about them: dog.",
    ]


@pytest.mark.parametrize("as_table", [False, True])
def test_unreadable_images_are_left_out_of_what_is_measured_and_calibrated_on(tmp_path, spec, as_table):
    """Ten of twelve test images can be read, and so can the four calibration images."""
    images = [b"" if number in (3, 7) else png((number,) * 3) for number in range(12)]
    for split in ("train", "test"):
        if as_table:
            write_parquet(tmp_path / f"{split}.parquet", images, [0, 1] * 6)
        for number, data in enumerate(() if as_table else images):
            path = tmp_path / split / "01"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    splits = load_data(DataConfig(str(tmp_path), calibration_size=9, max_unreadable=2), spec, seed=0)
    assert len(splits.test) == 10 and splits.test.labels.tolist().count(1) == 4
    assert torch.cat([images for images, _ in batches(splits.test, 4, seed=0, workers=1)]).unique(dim=0).shape[0] == 10
    assert len(splits.calibration) == 9 and records(splits.calibration) == set(splits.train.records[:9].tolist())
    assert torch.stack([image for image, _ in splits.calibration]).unique(dim=0).shape[0] == 9
    with pytest.raises(XPrunerError, match=r"2 images cannot be read, .* max_unreadable allows 1"):
        load_data(DataConfig(str(tmp_path), max_unreadable=1), spec, seed=0)


def test_one_class_is_refused(tmp_path, spec):
    paint(tmp_path / "cat" / "1.png")
    with pytest.raises(UsageError, match="fewer than 2 classes"):
        load_data(DataConfig(str(tmp_path)), spec, seed=0)


def test_classes_without_names_are_numbered(tmp_path, spec):
    write_parquet(tmp_path / "train.parquet", [png(BLACK)] * 5, [0, 2, 2, 2, 2])
    assert load_data(DataConfig(str(tmp_path)), spec, seed=0).class_names == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("train", "test", "names", "message"),
    [
        ([0, -1], [0], None, r"row 1 of .*train.parquet .* has the label -1, but labels must lie in 0\.\.0"),
        ([0, None], [0], None, "has the label -1"),
        ([0, 1], [0, 2], None, r"row 1 of .*test.parquet .* has the label 2, but labels must lie in 0\.\.1"),
        ([0, 1], [-1], ["cat", "dog"], "remove a split that has no labels"),
    ],
)
def test_labels_out_of_range_are_refused(tmp_path, spec, train, test, names, message):
    write_parquet(tmp_path / "train.parquet", [png(BLACK)] * len(train), train, names=names)
    write_parquet(tmp_path / "test.parquet", [png(BLACK)] * len(test), test, names=names)
    with pytest.raises(XPrunerError, match=message):
        load_data(DataConfig(str(tmp_path)), spec, seed=0)


def test_splits_with_other_classes_are_refused(tmp_path, spec):
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        write_parquet(tmp_path / f"{split}.parquet", [png(BLACK)] * 2, [0, 1], names=names)
    with pytest.raises(XPrunerError, match="have the classes dog, cat, but its training images cat, dog"):
        load_data(DataConfig(str(tmp_path)), spec, seed=0)


def test_a_model_of_other_channels_is_refused(spec):
    with pytest.raises(UsageError, match="takes 1 channels"):
        load_data(DataConfig("digits"), replace(spec, channels=1), seed=0)


@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"the CIFAR-10 parquet files are not in {CIFAR10}")
def test_cifar10_from_its_parquet_files():
    spec = InputSpec((96, 96), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    splits = load_data(DataConfig("cifar10", str(CIFAR10), val_size=5000), spec, seed=0)
    assert splits.class_names[0] == "airplane" and splits.num_classes == 10
    assert (len(splits.train), len(splits.val), len(splits.test)) == (45000, 5000, 10000)
    assert splits.test.labels.bincount().tolist() == [1000] * 10
    images, labels = next(iter(batches(splits.train, 64, seed=0)))
    assert images.shape == (64, 3, 96, 96) and images.mean().abs() < 0.5 and 0.5 < images.std() < 1.5
    assert labels.unique().numel() > 5
