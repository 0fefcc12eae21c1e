"""The images of some classes, labelled anew."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from xpruner.data import ImageDataset


class ImagesOf(Dataset[tuple[Tensor, int]]):
    """The images of some classes, labelled by their place among these.

    Args:
        images: Of all classes.
        labels: The chosen ones.
        count: At most so many, the first ones that can be read; all when absent.
    """

    def __init__(self, images: ImageDataset, labels: Sequence[int], count: int | None = None):
        chosen = images.only(torch.isin(images.labels, torch.tensor(list(labels))).nonzero().flatten().tolist())
        self.images = chosen if count is None else chosen.readable(count)
        self.place = {label: place for place, label in enumerate(labels)}

    def set_epoch(self, epoch: int) -> None:
        """Chooses the augmentation of one epoch, counted from 0."""
        self.images.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, label = self.images[index]
        return pixels, self.place[label]
