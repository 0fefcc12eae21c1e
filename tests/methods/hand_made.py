"""One layer whose activations, weights and gradients can be computed on paper, and a ViT with constant hidden units."""

from collections import OrderedDict
from dataclasses import replace

import torch
from methods_setup import tiny_problem
from tiny_models import VIT, Noise, build, group
from torch import Tensor, nn

from xpruner.calibration.moments import Batches
from xpruner.config import preset
from xpruner.methods import Problem
from xpruner.plan.budget import Budget
from xpruner.units import Units, find_units

KEY = "mlp:hidden"


def hand_made(calibration: Batches, weight: list[list[float]], *, width: int = 1) -> Problem:
    """Returns a problem whose model reads the "images" themselves: its logits are weight times image, without bias.

    Args:
        calibration: Batches of (batch, channels) activations with labels.
        weight: (classes, channels) of the consumer.
        width: Channels of one unit.
    """
    consumer = _layer(torch.tensor(weight))
    maker = _layer(torch.eye(consumer.in_features))
    mlp = nn.Sequential(OrderedDict(maker=maker, consumer=consumer))
    units = Units((group(KEY, consumer.in_features // width, width=width),), 10, 10, (3, 1, 1))
    config = replace(preset("default"), precision="fp32")
    model = nn.Sequential(OrderedDict(mlp=mlp))
    return Problem(model, units, Noise(1), calibration, len(weight), Budget(0.5), config)


def _layer(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def unlabelled(*rows: list[float]) -> Batches:
    """Returns the rows of activations as one batch, all of class 0."""
    return [(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.long))]


def half_of_the_units_constant(method: str) -> Problem:
    """Returns a problem about a ViT's hidden units: from 48 on they are constant, and half of all are to go."""
    model = build("vit_tiny_patch16_224", **VIT)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight[48:] = 0
            block.mlp.fc1.bias[48:] = 3.0
    problem = tiny_problem(method, model)
    units = find_units(model, ["hidden"])
    without = units.cost({group.key: list(range(48)) for group in units})
    return replace(problem, units=units, budget=Budget(without))
