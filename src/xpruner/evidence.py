"""Class evidence: from one backward pass, how much each class's predictions hang on each unit."""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.learning import frozen
from xpruner.moments import Batches, Moments, reading, ridge
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
    parts = {g.key: _irreplaceable_part(moments[g.key], g, least_ridge) for g in units} if moments else {}
    tables = {group.key: torch.zeros(num_classes, group.size) for group in units}
    counts = torch.zeros(num_classes)
    device = next(model.parameters()).device
    consumers = [group.consumer for group in units]
    with frozen(model), _differentiable(model, units), reading(model, consumers) as inputs:
        for images, labels in batches:
            with autocast(precision, device):
                logits = model(images.to(device))
            loss = F.cross_entropy(logits.float(), labels.to(device), reduction="sum")
            gradients = torch.autograd.grad(loss, [inputs[consumer] for consumer in consumers])
            counts += torch.bincount(labels, minlength=num_classes)
            for group, gradient in zip(units, gradients, strict=True):
                x = inputs[group.consumer].detach().float()
                if parts:
                    mean, part = parts[group.key]
                    x = F.linear(x - mean.to(x), part.to(x))
                slope = _per_unit(gradient.float() * x, len(labels), group)
                tables[group.key].index_add_(0, labels, slope.square().cpu())
    seen = counts > 0
    for table in tables.values():
        table[seen] /= counts[seen, None]
        table[~seen] = table[seen].mean(0)
    return tables


def _per_unit(product: Tensor, batch: int, group: UnitGroup) -> Tensor:
    """Sums (batch x windows, ..., units x width) to (batch, units)."""
    return product.reshape(batch, -1, group.size, group.width).sum((1, 3))


def _irreplaceable_part(moments: Moments, group: UnitGroup, least: float) -> tuple[Tensor, Tensor]:
    """Returns mu and the matrix that maps x - mu to its irreplaceable part, unit by unit (heads: block by block)."""
    covariance = moments.covariance
    lam = ridge(covariance, moments.count, least)
    precision = torch.linalg.inv(covariance + lam * torch.eye(len(covariance), dtype=covariance.dtype))
    return moments.mean.float(), own_part(precision, group.width).float()


def own_part(precision: Tensor, width: int) -> Tensor:
    """Returns the matrix whose rows for unit u are (P_uu)^-1 P_u, with P_uu the unit's diagonal block.

    Args:
        precision: (channels, channels) inverse covariance P.
        width: Channels of a unit.
    """
    if width == 1:
        return precision / precision.diagonal()[:, None]
    size = len(precision) // width
    rows = precision.view(size, width, len(precision))
    blocks = torch.diagonal(rows.view(size, width, size, width), dim1=0, dim2=2).permute(2, 0, 1)
    return torch.linalg.solve(blocks, rows).reshape(precision.shape)


@contextmanager
def _differentiable(model: nn.Module, units: Units):
    """Makes the first consumer's input require a gradient, although no weight does."""

    def require(_module: nn.Module, args: tuple[Tensor, ...]):
        return (args[0] if args[0].requires_grad else args[0].requires_grad_(), *args[1:])

    handle = model.get_submodule(units.groups[0].consumer).register_forward_pre_hook(require)
    try:
        yield
    finally:
        handle.remove()
