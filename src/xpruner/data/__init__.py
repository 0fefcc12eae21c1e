"""From the name of a dataset to batches of normalised image tensors, the same ones in every run with the same seed."""

from xpruner.data.class_names import Classes
from xpruner.data.dataset import ImageDataset, batches, calibration_batches
from xpruner.data.spec import InputSpec
from xpruner.data.splits import Splits, class_names, load_data

__all__ = [
    "Classes",
    "ImageDataset",
    "InputSpec",
    "Splits",
    "batches",
    "calibration_batches",
    "class_names",
    "load_data",
]
