"""Class evidence: from one backward pass, how much each class's predictions depend on each unit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.calibration.moments import Batches, Moments, channels_last
from xpruner.calibration.ridge import ridged_covariance
from xpruner.calibration.unit_blocks import unit_blocks
from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import capture_inputs, hooked
from xpruner.runtime.modes import frozen
from xpruner.runtime.outputs import logits_of
from xpruner.units import UnitGroup, Units
from xpruner.units.gates import gating


def class_evidence(
    model: nn.Module,
    units: Units,
    batches: Batches,
    num_classes: int,
    moments: Mapping[str, Moments] | None = None,
    *,
    temperature: float = 1.0,
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """Returns for each group a (classes, units) table of first-order evidence, averaged over each class's images.

    With x the consumer's input and g the gradient of the cross-entropy at it, a sample's evidence for unit u is
    (sum over tokens and channels of g x)^2: Taylor's score, the squared gradient with respect to a gate on
    the unit. Given moments, x is replaced by its irreplaceable part, the part of u that is not affine in the other
    units: (P_uu)^-1 (P (x - mu))_u with P = (Sigma + lam I)^-1 [our choice]; what remains is Taylor's score after
    compensation.

    Args:
        model: The dense model.
        units: Its groups.
        batches: Calibration images with labels.
        num_classes: Rows of the tables; a class without images gets the mean of the others.
        moments: Of the consumers' inputs, for irreplaceable evidence; absent for Taylor's.
        temperature: Divides the logits.
        precision: Of the forward and backward pass.
    """
    known = moments or {}
    view = {}
    for group in units:
        if group.key in known:
            precision_matrix = torch.linalg.inv(ridged_covariance(known[group.key]))
            view[group.key] = irreplaceable_view(known[group.key].mean, precision_matrix, group.channels)
    return evidence_tables(model, units, batches, num_classes, (view,), precision, softened(temperature))[0]


View = Callable[[Tensor], Tensor]
"""Maps a consumer's input, channels last, to the tensor that takes its place in the evidence."""

Objective = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (batch, classes) and labels (batch,) to the sum over the batch of what is to be explained."""


def softened(temperature: float) -> Objective:
    """Returns the sum over the batch of the cross-entropy of logits that are divided by a temperature."""
    return lambda logits, labels: F.cross_entropy(logits / temperature, labels, reduction="sum")


cross_entropy = softened(1.0)


def evidence_tables(
    model: nn.Module,
    units: Units,
    batches: Batches,
    num_classes: int,
    views: Sequence[Mapping[str, View]],
    precision: str = "fp32",
    objective: Objective = cross_entropy,
) -> list[dict[str, Tensor]]:
    """Returns the tables of :func:`class_evidence` for each view of the consumers' inputs, from one backward pass."""
    tables = [{group.key: torch.zeros(num_classes, group.size) for group in units} for _ in views]
    counts = torch.zeros(num_classes)
    with gate_slopes(model, units, precision, views, objective) as slopes_of:
        for images, labels in batches:
            counts += torch.bincount(labels, minlength=num_classes)
            for view, seen in zip(tables, slopes_of(images, labels), strict=True):
                for key, slopes in seen.items():
                    view[key].index_add_(0, labels, slopes.square().cpu())
    with_images = counts > 0
    for table in (table for view in tables for table in view.values()):
        table[with_images] /= counts[with_images, None]
        table[~with_images] = table[with_images].mean(0)
    return tables


@contextmanager
def gate_slopes(
    model: nn.Module,
    units: Units,
    precision: str = "fp32",
    views: Sequence[Mapping[str, View]] = ({},),
    objective: Objective = cross_entropy,
) -> Iterator[Callable[[Tensor, Tensor], list[dict[str, Tensor]]]]:
    """Yields a function from images and labels to the gradient of each sample's loss with respect to a gate on a unit.

    For each view it returns (batch, units) for each group's key: the sum over tokens and channels of g x, with x the
    consumer's input and g the gradient of the sample's objective at it.

    Args:
        model: The model; in eval mode with frozen weights while the block runs.
        units: Its groups.
        precision: Of the forward and backward pass.
        views: By a group's key what takes the place of x; a group that a view lacks keeps its x.
        objective: What is differentiated.
    """
    device = next(model.parameters()).device
    consumers = units.of_consumers()
    no_consumer = [group for group in units if group.consumer is None]

    def slopes_of(images: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
        gates = {g.key: torch.ones(len(images), g.size, device=device, requires_grad=True) for g in no_consumer}
        with autocast(precision, device), gating(model, units, gates):
            logits = logits_of(model(images.to(device)))
        loss = objective(logits.float(), labels.to(device))
        watched = [*(inputs[path] for path in consumers), *gates.values()]
        gradients = dict(zip((*consumers, *gates), torch.autograd.grad(loss, watched), strict=True))
        slopes: list[dict[str, Tensor]] = [{} for _ in views]
        for group in units:
            if group.consumer is None:
                of_group = [gradients[group.key]] * len(views)
            else:
                layer = model.get_submodule(group.consumer)
                x, gradient = (channels_last(layer, t) for t in (inputs[group.consumer], gradients[group.consumer]))
                x, gradient = x.detach().float(), gradient.float()
                seen = (view[group.key](x) if group.key in view else x for view in views)
                of_group = [_slope(x, gradient, len(labels), group) for x in seen]
            for found, slope in zip(slopes, of_group, strict=True):
                found[group.key] = slope
        return slopes

    differentiable = (model.get_submodule(path).register_forward_pre_hook(_require_gradient) for path in consumers)
    with frozen(model), hooked(differentiable), capture_inputs(model, consumers) as inputs:
        yield slopes_of


def _slope(x: Tensor, gradient: Tensor, batch: int, group: UnitGroup) -> Tensor:
    """Returns (batch, units): gradient times x, over (batch x windows, ..., channels)."""
    product = (gradient * x).reshape(batch, -1, x.shape[-1]).sum(1)
    return product[:, group.channels].sum(-1)


def irreplaceable_view(mean: Tensor, precision: Tensor, channels: Tensor) -> View:
    """Returns the view in which each unit's channels are their part that is not affine in the other units' channels."""
    own = own_part(precision, channels)
    return lambda x: F.linear(x - mean.to(x), own.to(x))


def centred_view(mean: Tensor) -> View:
    """Returns the view in which channels lose their mean and nothing else."""
    return lambda x: x - mean.to(x)


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


def _require_gradient(_module: nn.Module, args: tuple[Tensor, ...]):
    """Makes a consumer's input require a gradient, although no weight does."""
    return (args[0] if args[0].requires_grad else args[0].requires_grad_(), *args[1:])
