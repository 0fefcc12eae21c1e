"""A training set and a model small enough for a step in milliseconds."""

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

CLASSES = 3


class Blobs(Dataset):
    """Noise images (3, 16, 16), each brightened in the channel of its class; notes what it gave in which epoch."""

    def __init__(self, size: int = 12):
        generator = torch.Generator().manual_seed(1)
        self.labels = torch.arange(size) % CLASSES
        self.images = torch.randn(size, 3, 16, 16, generator=generator)
        self.images[torch.arange(size), self.labels] += 1.0
        self.epoch, self.seen = 0, []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.seen.append((self.epoch, index))
        return self.images[index], int(self.labels[index])


def tiny_model(seed: int = 0, **kwargs) -> nn.Module:
    torch.manual_seed(seed)
    shape = dict(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=CLASSES)
    return timm.create_model("vit_tiny_patch16_224", **shape | kwargs)
