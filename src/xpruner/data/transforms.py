"""From a PIL image to a normalised tensor, plain or augmented.

Every transform has two halves: a deterministic one, whose result can be kept in memory, then a random one, which
depends only on a key of a few integers. No global random state is read, and none is left changed.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from xpruner.data.spec import InputSpec
from xpruner.errors import unknown

Key = tuple[int, ...]

LARGEST_SHIFT = 1 / 32  # of the side


class Transform(Protocol):
    """Makes a tensor (3, height, width) of an RGB image."""

    def settle(self, image: Image.Image) -> Any:
        """Returns the result of the deterministic half, as bytes."""
        ...

    def vary(self, settled: Any, key: Key) -> Tensor:
        """Returns the tensor: the random half, decided by the key."""
        ...


class Plain:
    """Resizes, crops and normalises as the model expects; nothing is random."""

    def __init__(self, spec: InputSpec) -> None:
        self._to_pixels = create_transform(
            (3, *spec.size),
            interpolation=spec.interpolation,
            crop_pct=spec.crop_pct,
            crop_mode=spec.crop_mode,
            normalize=False,
        )
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
        self._scale, self._offset = 1 / (255 * std), -mean / std

    def settle(self, image: Image.Image) -> Tensor:
        return self._to_pixels(image).contiguous()

    def vary(self, settled: Tensor, key: Key) -> Tensor:
        return settled.float().mul_(self._scale).add_(self._offset)  # in place: 3 times as fast as torchvision's

    def __call__(self, image: Image.Image) -> Tensor:
        return self.vary(self.settle(image), ())


class Light(Plain):
    """A flip with probability 1/2, if ``mirror``, and a shift by up to 1/32 of the side that repeats the edge."""

    def __init__(self, spec: InputSpec, mirror: bool) -> None:
        super().__init__(spec)
        self._mirror = mirror
        self._rows, self._columns = (_shifts(side) for side in spec.size)

    def vary(self, settled: Tensor, key: Key) -> Tensor:
        rng = np.random.default_rng(key)
        flip = self._mirror and rng.random() < 0.5
        rows, columns = (shifts[rng.integers(len(shifts))] for shifts in (self._rows, self._columns))
        if flip:
            columns = len(columns) - 1 - columns
        return super().vary(torch.from_numpy(settled.numpy()[:, rows][:, :, columns]), key)


def _shifts(side: int) -> list[np.ndarray]:
    """Returns for each shift along a side the indices of the pixels, with the last one repeated beyond the edge."""
    reach = round(side * LARGEST_SHIFT)
    return [(np.arange(side) + shift).clip(0, side - 1) for shift in range(-reach, reach + 1)]


class Timm:
    """timm's training transform as DeiT uses it: random crop, flip if ``mirror``, RandAugment and random erasing."""

    def __init__(self, spec: InputSpec, mirror: bool) -> None:
        self._transform = create_transform(
            (3, *spec.size),
            is_training=True,
            hflip=0.5 if mirror else 0.0,
            auto_augment="rand-m9-mstd0.5-mmax9-inc1",  # level 10 posterises to 0 bits, which Pillow refuses
            re_prob=0.25,
            re_mode="pixel",
            interpolation=spec.interpolation,
            mean=spec.mean,
            std=spec.std,
        )

    def settle(self, image: Image.Image) -> Image.Image:
        return image

    def vary(self, settled: Image.Image, key: Key) -> Tensor:
        with _seeded(key):
            return self._transform(settled)


def make_transform(augment: str, spec: InputSpec, mirror: bool) -> Transform:
    """Returns the transform called ``augment``: ``none``, ``light`` or ``timm``.

    Args:
        augment: Its name.
        spec: The input that the model expects.
        mirror: Whether a mirrored image still shows its class.

    Raises:
        UsageError: There is none of this name.
    """
    if augment == "none":
        return Plain(spec)
    if augment == "light":
        return Light(spec, mirror)
    if augment == "timm":
        return Timm(spec, mirror)
    raise unknown("augmentation", augment, ("none", "light", "timm"))


@contextlib.contextmanager
def _seeded(key: Key) -> Iterator[None]:
    """Seeds the global generators of Python, numpy and torch on the CPU by ``key``, and restores them at the end."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
