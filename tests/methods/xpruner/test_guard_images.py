from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from xpruner.config import DataConfig, RunConfig
from xpruner.data import ImageDataset, InputSpec
from xpruner.data.dataset import Reader
from xpruner.data.sources import Digits
from xpruner.errors import UsageError
from xpruner.methods.xpruner.guard_images import IMAGES, guarded_calibration, to_measure, unseen, weighed_calibration


def test_drops_are_measured_on_no_image_that_cannot_be_read():
    """Of 40 digits the first 10 are for calibration and the next 15 measured; of those one is damaged."""

    class Damaged(Digits):
        def open(self, record: int) -> Image.Image:
            return Image.open("gone") if record == 12 else super().open(record)

    train = ImageDataset(Reader(Damaged(), 1), np.arange(40), InputSpec((8, 8), (0.5,) * 3, (0.5,) * 3), "light")
    calibration = [(torch.zeros(10, 3, 8, 8), train.labels[:10])]
    measured = unseen(SimpleNamespace(train=train, calibration=calibration), limit=100.0)
    assert measured.records.tolist() == [10, 11, *range(13, 25)]
    assert torch.equal(measured[2][0], train.plain()[13][0])


def test_more_images_are_taken_where_the_limit_needs_them():
    """1000 classes in turn: for 2 points 50 images of each are needed, for 50 points the first 10,000 have enough."""
    labels = torch.arange(60_000) % 1000
    assert to_measure(labels, 1000, 2.0) == list(range(1000, 51_000))
    assert to_measure(labels, 1000, 50.0) == list(range(1000, 1000 + IMAGES))


def test_of_a_rare_class_later_images_are_taken():
    labels = torch.zeros(40_000, dtype=torch.long)
    labels[39_990:] = 1
    assert to_measure(labels, 0, 10.0) == [*range(IMAGES), *range(39_990, 40_000)]


def test_half_of_the_images_are_left_where_there_are_few():
    assert to_measure(torch.zeros(110, dtype=torch.long), 10, 10.0) == list(range(10, 60))


def test_compensation_sees_more_images_of_the_classes_that_count_more():
    """Of 40 images of two classes in turn the first 8 are for calibration and the next 16 measured."""
    train = TensorDataset(torch.arange(40.0)[:, None], torch.arange(40) % 2)
    calibration = [(train.tensors[0][:8], train.tensors[1][:8])]
    seen = weighed_calibration(torch.tensor([1.5, 0.5]), train, calibration, 50.0, DataConfig(batch_size=5))
    assert torch.cat([images for images, _ in seen]).flatten().tolist() == [0, 1, 2, 3, 4, 6, 24, 26]
    assert torch.cat([labels for _, labels in seen]).tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    assert weighed_calibration(torch.ones(2), train, calibration, 50.0, DataConfig()) is calibration


def test_what_a_guarded_plan_is_compensated_on():
    train = TensorDataset(torch.arange(40.0)[:, None], torch.arange(40) % 2)
    calibration = [(train.tensors[0][:8], train.tensors[1][:8])]
    config = RunConfig(max_class_drop=50.0, data=DataConfig(batch_size=8))
    assert guarded_calibration({}, train, calibration, config) is calibration
    ((images, _),) = guarded_calibration({"guard": {"weights": [1.5, 0.5]}}, train, calibration, config)
    assert images.flatten().tolist() == [0, 1, 2, 3, 4, 6, 24, 26]


@pytest.mark.parametrize(
    ("labels", "seen", "has", "remedy"),
    [
        ([0] * 60 + [1] * 4, 10, "class 1 has 4", "set it to 25 or more, or give more images"),
        ([1] * 4 + [0] * 60, 4, "class 1 has 0", "give more images"),
    ],
)
def test_a_limit_worth_less_than_one_image_is_refused(labels, seen, has, remedy):
    with pytest.raises(UsageError) as caught:
        to_measure(torch.tensor(labels), seen, 2.0)
    assert str(caught.value) == (
        "max_class_drop is 2, for which 50 training images of each class are needed, so that one weighs no more, "
        f"but {has} that are not for calibration; {remedy} (data.train_size, data.calibration_size)."
    )


def test_a_class_without_any_training_images_is_not_guarded():
    assert to_measure(torch.tensor([0, 2] * 4), 0, 25.0) == list(range(8))
