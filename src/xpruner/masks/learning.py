"""Stage 1: learn the explainability-aware masks, and measure how far the label leaks through them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from xpruner.config import MaskConfig
from xpruner.config.checks import check
from xpruner.masks.class_masks import ClassMasks, TemporalSmoothness, class_variance, sparsity, total_variation
from xpruner.runtime.devices import autocast
from xpruner.runtime.modes import frozen
from xpruner.runtime.outputs import logits_of
from xpruner.training.losses import distillation_loss
from xpruner.training.options import LoopOptions
from xpruner.training.search import Loop, learn
from xpruner.units.gates import gating

TRUE, WRONG, MEAN = 0, 1, 2
"""The part an image plays in a step: which class's mask gates it."""


def learn_masks(
    model: nn.Module,
    masks: ClassMasks,
    train: Dataset,
    config: MaskConfig,
    options: LoopOptions,
) -> ClassMasks:
    """Learns the masks in place by gradient; the model's weights do not change.

    Each image of a batch plays one of three parts. Gated by its true class, the prediction must be right; gated by a
    random wrong class, the image must not turn into that class; gated by the mean over the classes, which is what will
    be deployed, the dense prediction must remain. With ``wrong`` and ``mean`` at 0 only the true class gates: that is
    what the sources describe, and its loss can fall because the gates reveal the label.

    Args:
        model: The dense model.
        masks: What to learn.
        train: Pairs of an image and a class index.
        config: Weights and shares.
        options: Batches, seed, precision and state.

    Raises:
        UsageError: If a share or weight is out of range.
        XPrunerError: If the loss is not finite.
    """
    check(config, "masks.")
    if config.steps == 0:
        return masks
    smoothness = Smoothness(config.smooth, masks)
    learned = nn.ModuleDict({"masks": masks, "smoothness": smoothness})
    optimizer = torch.optim.Adam(masks.parameters(), config.lr)
    loss = _Loss(model, masks, smoothness, config, options.precision)
    with frozen(model):
        loop = Loop("learning masks", learned, optimizer, loss, config.steps, {"masks": asdict(config)})
        learn(loop, train, options)
    return masks


@dataclass(frozen=True)
class _Loss:
    """The loss of a step: that of the roles which the images play, sparsity and smoothness."""

    model: nn.Module
    masks: ClassMasks
    smoothness: "Smoothness"
    config: MaskConfig
    precision: str

    def __call__(self, _progress: float, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        model, masks, config = self.model, self.masks, self.config
        values = masks.values()
        roles = assign_roles(labels, config)
        gate_labels = torch.where(roles == WRONG, wrong_labels(labels, masks.num_classes), labels)
        with autocast(self.precision, images.device):
            with torch.no_grad():
                dense = logits_of(model(images[roles == MEAN])).float() if config.mean else None
            with gating(model, masks.units, role_gates(values, roles, gate_labels)):
                logits = logits_of(model(images)).float()
        task = role_loss(logits, dense, roles, gate_labels)
        total = task + config.sparsity * sparsity(values, masks.units)
        if config.smooth != "none":
            total = total + config.smooth_weight * self.smoothness(values)
        return total, {"task": task.item()}


def assign_roles(labels: Tensor, config: MaskConfig) -> Tensor:
    """Returns (batch,) roles in random order, in the shares that the config asks for, rounded to whole images."""
    batch = len(labels)
    wrong, mean = round(batch * config.wrong), round(batch * config.mean)
    roles = torch.full((batch,), TRUE)
    roles[:wrong] = WRONG
    roles[batch - mean :] = MEAN
    return roles[torch.randperm(batch)].to(labels.device)


def wrong_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Returns for each of (batch,) labels another class, uniformly at random."""
    shift = torch.randint(1, num_classes, labels.shape, device=labels.device)
    return (labels + shift) % num_classes


def role_gates(values: Mapping[str, Tensor], roles: Tensor, gate_labels: Tensor) -> dict[str, Tensor]:
    """Returns (batch, units) gates: the row of the gating class, or the mean over the classes for that role."""
    mean = (roles == MEAN)[:, None]
    return {key: torch.where(mean, m.mean(0), m[gate_labels]) for key, m in values.items()}


def role_loss(logits: Tensor, dense: Tensor | None, roles: Tensor, gate_labels: Tensor) -> Tensor:
    """Returns the task loss, an average over the batch of each image's own term.

    Args:
        logits: (batch, classes) under the gates.
        dense: (images with role MEAN, classes) of the dense model; None where there are none.
        roles: (batch,).
        gate_labels: (batch,) the class whose mask gates the image.

    Returns:
        -log p[y] for TRUE; -log(1 - p[y']) for WRONG, with y' the wrong class; KL(dense || gated) for MEAN.
    """
    total = logits.new_zeros(())
    true, wrong, mean = roles == TRUE, roles == WRONG, roles == MEAN
    if true.any():
        total = total + F.cross_entropy(logits[true], gate_labels[true], reduction="sum")
    if wrong.any():
        p = logits[wrong].softmax(-1).gather(1, gate_labels[wrong, None])
        total = total - torch.log1p(-p.clamp(max=1 - 1e-6)).sum()
    if dense is not None and mean.any():
        total = total + distillation_loss(logits[mean], dense) * mean.sum()
    return total / len(roles)


class Smoothness(nn.Module):
    """The smoothness regulariser of a config, with what it remembers between steps as buffers.

    Args:
        kind: ``none``, ``class``, ``unit`` or ``time``.
        masks: The masks it will see.
    """

    def __init__(self, kind: str, masks: ClassMasks):
        super().__init__()
        self.kind = kind
        self.time = TemporalSmoothness(masks.tensors()) if kind == "time" else None

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Returns the penalty on the masks (classes, units) of all groups."""
        if self.time is not None:
            return self.time(values)
        return class_variance(values) if self.kind == "class" else total_variation(values)


@torch.no_grad()
def leak(model: nn.Module, masks: ClassMasks, batches, *, precision: str = "fp32") -> dict[str, float]:
    """Returns how much of the gated accuracy is the label itself, coming in through the masks.

    Args:
        model: The dense model.
        masks: Learned masks.
        batches: Batches of (images, labels).
        precision: Of the forward passes.

    Returns:
        ``gated`` top-1 under each image's own class mask, ``label_free`` top-1 under the class-mean mask, and
        ``leak``, their difference; shares from 0 to 1. Only ``label_free`` is a measure of the model.
    """
    hits, free, total = 0, 0, 0
    values = masks.values()
    mean = {key: m.mean(0) for key, m in values.items()}
    with frozen(model):
        device = next(model.parameters()).device
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            with autocast(precision, device):
                with gating(model, masks.units, masks.gates(labels, values)):
                    hits += int((logits_of(model(images)).argmax(1) == labels).sum())
                with gating(model, masks.units, mean):
                    free += int((logits_of(model(images)).argmax(1) == labels).sum())
            total += len(labels)
    return {"gated": hits / total, "label_free": free / total, "leak": (hits - free) / total}
