"""Ablation of units: what each class loses when their gates are closed, and which units are redundant to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.calibration.moments import Batches, channels_last, consumer_moments
from xpruner.data.by_class import class_means
from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import capture_inputs
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import logits_of
from xpruner.units import UnitGroup, Units
from xpruner.units.gates import gating


@dataclass(frozen=True)
class AblationEffect:
    """What ablating some units does.

    Attributes:
        top1: Percentage points of top-1 lost, (classes,), nan for a class without images.
        loss: Mean rise of the cross-entropy, (classes,), nan for a class without images.
        change: (images,) Kullback-Leibler divergence from the whole model's prediction for each image, in nats.
    """

    top1: Tensor
    loss: Tensor
    change: Tensor


@torch.no_grad()
def ablation_effects(
    model: nn.Module,
    units: Units,
    choices: Sequence[Mapping[str, Sequence[int]]],
    batches: Batches,
    num_classes: int,
    precision: str = "fp32",
) -> list[AblationEffect]:
    """Returns for each choice of units what ablating them does.

    Args:
        model: The dense model.
        units: Its groups.
        choices: For a group's key the indices of the units to ablate, one choice after the other.
        batches: Images with labels.
        num_classes: Of the labels.
        precision: Of the forward passes.
    """
    device = next(model.parameters()).device
    ablated = [{key: _gates(units[key].size, closed) for key, closed in choice.items()} for choice in choices]
    gates: list[dict[str, Tensor]] = [{}, *ablated]
    logits: list[list[Tensor]] = [[] for _ in gates]
    labels = []
    with evaluating(model), autocast(precision, device):
        for images, truth in batches:
            labels.append(truth)
            for found, gate in zip(logits, gates, strict=True):
                with gating(model, units, gate):
                    found.append(logits_of(model(images.to(device))).float().cpu())
    whole, *parts = (torch.cat(found) for found in logits)
    truth = torch.cat(labels)
    return [_effect(whole, part, truth, num_classes) for part in parts]


@torch.no_grad()
def activation_strength(
    model: nn.Module, group: UnitGroup, index: int, batches: Batches, precision: str = "fp32"
) -> Tensor:
    """Returns how strongly each image activates a unit: (images,) mean square of the unit's output, over its tokens.

    Args:
        model: The dense model.
        group: A group with a consumer.
        index: Of the unit.
        batches: Images; labels are not read.
        precision: Of the forward passes.
    """
    assert group.consumer is not None
    device = next(model.parameters()).device
    layer, channels = model.get_submodule(group.consumer), group.channels[index]
    found = []
    with evaluating(model), autocast(precision, device), capture_inputs(model, [group.consumer]) as inputs:
        for images, _ in batches:
            model(images.to(device))
            output = channels_last(layer, inputs[group.consumer])[..., channels.to(device)].float()
            found.append(output.square().reshape(len(images), -1).mean(1).cpu())
    return torch.cat(found)


def redundant_units(
    model: nn.Module, units: Units, key: str, index: int, batches: Batches, count: int, precision: str = "fp32"
) -> list[int]:
    """Returns the units of a group that are most redundant to one of them, the most redundant first.

    They explain the largest share of its variance, each by an affine map: trace(S_uv S_vv^-1 S_vu) / trace(S_uu).

    Args:
        model: The dense model.
        units: Its groups.
        key: Of a group with a consumer.
        index: Of the unit.
        batches: Images; labels are not read.
        count: How many to return at most.
        precision: Of the forward passes.
    """
    group = units[key]
    with evaluating(model):
        moments = consumer_moments(model, replace(units, groups=(group,)), batches, precision)[key]
    explained = _explained(moments.covariance, group.channels, index)
    explained[index] = -1
    return explained.argsort(descending=True)[: min(count, group.size - 1)].tolist()


def _explained(covariance: Tensor, channels: Tensor, index: int) -> Tensor:
    """Returns (units,) shares of one unit's variance that each of the units explains; 1 for the unit itself."""
    width = channels.shape[1]
    blocks = covariance[channels[:, :, None], channels[:, None, :]]
    across = covariance[channels[:, :, None], channels[index]]  # (units, width, width)
    ridge = 1e-9 * blocks.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
    solved = torch.linalg.solve(blocks + ridge[:, None, None] * torch.eye(width, dtype=blocks.dtype), across)
    return (across * solved).sum((1, 2)) / blocks[index].trace().clamp(min=1e-30)


def _gates(size: int, closed: Sequence[int]) -> Tensor:
    gates = torch.ones(size)
    gates[list(closed)] = 0.0
    return gates


def _effect(whole: Tensor, part: Tensor, labels: Tensor, num_classes: int) -> AblationEffect:
    wrong = (whole.argmax(1) == labels).double() - (part.argmax(1) == labels).double()
    rise = F.cross_entropy(part, labels, reduction="none") - F.cross_entropy(whole, labels, reduction="none")
    change = F.kl_div(part.log_softmax(1), whole.log_softmax(1), log_target=True, reduction="none").sum(1)
    return AblationEffect(100 * class_means(wrong, labels, num_classes), class_means(rise, labels, num_classes), change)
