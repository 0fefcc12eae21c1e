"""A problem that a method solves in a moment: a small model, images of noise, and units that are planted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from xpruner.config import DataConfig, FinetuneConfig, SearchConfig, preset
from xpruner.methods import Problem, find_method
from xpruner.plan.budget import Budget
from xpruner.testing.models import CLASSES, SIDE, small_vit
from xpruner.units import find_units

IMAGES = 40
IDLE = 48
"""Hidden units from this one on are idle in a :func:`planted` model."""


class Noise(Dataset):
    """Random 32-pixel images, the same ones each time, with the labels 0 to 4 in turn.

    Args:
        size: How many.
    """

    def __init__(self, size: int):
        self.images = torch.randn(size, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], index % CLASSES


def tiny_problem(
    method: str,
    model: nn.Module | None = None,
    budget: float = 0.5,
    steps: int = 6,
    options: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Problem:
    """Returns a problem of the kinds of unit that a method was made for, on 40 images of noise.

    Args:
        method: Its name.
        model: Five classes, 32-pixel images; a :func:`small_vit` when absent.
        budget: Share of the MACs.
        steps: Updates of a search that trains.
        options: The method's own.
        **changes: Fields of the RunConfig.
    """
    config = replace(
        preset("default"), method=method, data=DataConfig(batch_size=8), finetune=FinetuneConfig(epochs=1),
        search=SearchConfig(steps=steps, options=dict(options or {})), precision="fp32", **changes,
    )  # fmt: skip
    model = small_vit() if model is None else model
    images = Noise(IMAGES)
    calibration = [default_collate([images[i] for i in range(IMAGES)])]
    units = find_units(model, find_method(method).kinds)
    return Problem(model, units, images, calibration, CLASSES, Budget(budget), config)


def planted(model: Any) -> nn.Module:
    """Makes hidden unit 0 of every block drive the output, and units from 48 on idle: small weights, never read.

    Args:
        model: A ViT of timm; it is changed in place.
    """
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight[0] *= 3
            block.mlp.fc1.bias[0] = 1.0
            block.mlp.fc2.weight[:, 0] *= 20
            block.mlp.fc1.weight[IDLE:] *= 0.01
            block.mlp.fc1.bias[IDLE:] = 0
            block.mlp.fc2.weight[:, IDLE:] = 0
    return model
