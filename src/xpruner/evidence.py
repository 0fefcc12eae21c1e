"""Class evidence: from one backward pass, how much each class's predictions hang on each unit."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.gates import gating
from xpruner.learning import frozen
from xpruner.moments import Batches, Moments, channels_last, reading, ridge
from xpruner.outputs import logits_of
from xpruner.training.devices import autocast
from xpruner.units import UnitGroup, Units

Evidence = Literal["none", "taylor", "irreplaceable"]


def class_evidence(
    model: nn.Module,
    units: Units,
    batches: Batches,
    num_classes: int,
    moments: Mapping[str, Moments] | None = None,
    *,
    least_ridge: float = 1e-3,
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """Returns for each group a (classes, units) table of first-order evidence, averaged over each class's images.

    With x the consumer's input and g the gradient of the cross-entropy at it, a sample's evidence for unit u is
    (sum over tokens and channels of g x)^2: Taylor's score, which is the squared gradient with respect to a gate on
    the unit. Given moments, x is replaced by its irreplaceable part, the part of u that is not affine in the other
    units: (P_uu)^-1 (P (x - mu))_u with P = (Sigma + lam I)^-1 [our choice]; what remains is Taylor's score after
    compensation.

    Args:
        model: The dense model.
        units: Its groups.
        batches: Calibration images with labels.
        num_classes: Rows of the tables; a class without images gets the mean of the others.
        moments: Of the consumers' inputs, for irreplaceable evidence; absent for Taylor's.
        least_ridge: Smallest ridge, as a share of the mean variance.
        precision: Of the forward and backward pass.
    """
    known = moments or {}
    parts = {g.key: _irreplaceable_part(known[g.key], g, least_ridge) for g in units if g.key in known}
    tables = {group.key: torch.zeros(num_classes, group.size) for group in units}
    counts = torch.zeros(num_classes)
    with gate_slopes(model, units, precision, parts) as slopes_of:
        for images, labels in batches:
            counts += torch.bincount(labels, minlength=num_classes)
            for key, slopes in slopes_of(images, labels).items():
                tables[key].index_add_(0, labels, slopes.square().cpu())
    seen = counts > 0
    for table in tables.values():
        table[seen] /= counts[seen, None]
        table[~seen] = table[seen].mean(0)
    return tables


@contextmanager
def gate_slopes(
    model: nn.Module, units: Units, precision: str = "fp32", parts: Mapping[str, tuple[Tensor, Tensor]] | None = None
) -> Iterator[Callable[[Tensor, Tensor], dict[str, Tensor]]]:
    """Yields a function from images and labels to the gradient of each sample's loss with respect to a gate on a unit.

    It returns (batch, units) for each group's key: the sum over tokens and channels of g x, with x the consumer's input
    and g the gradient of the sample's cross-entropy at it.

    Args:
        model: The model; in eval mode with frozen weights while the block runs.
        units: Its groups.
        precision: Of the forward and backward pass.
        parts: For a group's key the mean and the matrix that map x to what takes its place.
    """
    parts = parts or {}
    device = next(model.parameters()).device
    readers = units.of_consumers()
    unread = [group for group in units if group.consumer is None]

    def slopes_of(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        gates = {g.key: torch.ones(len(images), g.size, device=device, requires_grad=True) for g in unread}
        with autocast(precision, device), gating(model, units, gates):
            logits = logits_of(model(images.to(device)))
        loss = F.cross_entropy(logits.float(), labels.to(device), reduction="sum")
        watched = [*(inputs[path] for path in readers), *gates.values()]
        gradients = dict(zip((*readers, *gates), torch.autograd.grad(loss, watched), strict=True))
        slopes = {}
        for group in units:
            if group.consumer is None:
                slopes[group.key] = gradients[group.key]
            else:
                layer = model.get_submodule(group.consumer)
                x, gradient = (channels_last(layer, t) for t in (inputs[group.consumer], gradients[group.consumer]))
                part = parts.get(group.key)
                slopes[group.key] = _slope(x.detach().float(), gradient.float(), len(labels), group, part)
        return slopes

    with frozen(model), _differentiable(model, units), reading(model, readers) as inputs:
        yield slopes_of


def _slope(x: Tensor, gradient: Tensor, batch: int, group: UnitGroup, part: tuple[Tensor, Tensor] | None) -> Tensor:
    """Returns (batch, units): gradient times x, or its irreplaceable part, over (batch x windows, ..., channels)."""
    if part is not None:
        mean, own = part
        x = F.linear(x - mean.to(x), own.to(x))
    product = (gradient * x).reshape(batch, -1, x.shape[-1]).sum(1)
    return product[:, group.channels].sum(-1)


def _irreplaceable_part(moments: Moments, group: UnitGroup, least: float) -> tuple[Tensor, Tensor]:
    """Returns mu and the matrix that maps x - mu to its irreplaceable part, unit by unit (heads: block by block)."""
    covariance = moments.covariance
    lam = ridge(covariance, moments.count, least)
    precision = torch.linalg.inv(covariance + lam * torch.eye(len(covariance), dtype=covariance.dtype))
    return moments.mean.float(), own_part(precision, group.channels).float()


def own_part(precision: Tensor, channels: Tensor) -> Tensor:
    """Returns the matrix whose rows for unit u are (P_uu)^-1 P_u, with P_uu the unit's diagonal block.

    Args:
        precision: (all channels, all channels) inverse covariance P.
        channels: (units, channels of one unit) indices.
    """
    if channels.shape[1] == 1:
        return precision / precision.diagonal()[:, None]
    own = torch.empty_like(precision)
    own[channels] = torch.linalg.solve(unit_blocks(precision, channels), precision[channels])
    return own


def unit_blocks(matrix: Tensor, channels: Tensor) -> Tensor:
    """Returns the (units, width, width) blocks of a (channels, channels) matrix that belong to the units."""
    return matrix[channels[:, :, None], channels[:, None, :]]


@contextmanager
def _differentiable(model: nn.Module, units: Units):
    """Makes the consumers' inputs require a gradient, although no weight does."""

    def require(_module: nn.Module, args: tuple[Tensor, ...]):
        return (args[0] if args[0].requires_grad else args[0].requires_grad_(), *args[1:])

    handles = [model.get_submodule(path).register_forward_pre_hook(require) for path in units.of_consumers()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
