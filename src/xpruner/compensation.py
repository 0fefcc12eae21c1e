"""Compensation: closed-form least squares on the consumers of what was cut, so that less accuracy is lost."""

from typing import Any

import torch
from torch import Tensor, nn

from xpruner.config import CompensateConfig
from xpruner.errors import XPrunerError
from xpruner.moments import Batches, Moments, consumer_moments, reading, ridge
from xpruner.plan import Plan
from xpruner.training.devices import autocast
from xpruner.training.evaluate import evaluating
from xpruner.units import UnitGroup, Units, find_units
from xpruner.units.branch import ConstantBranch
from xpruner.units.timm import stream_point


def compensate(
    pruned: nn.Module,
    dense: nn.Module,
    plan: Plan,
    batches: Batches,
    config: CompensateConfig | None = None,
    *,
    precision: str = "fp32",
) -> nn.Module:
    """Changes the weights and biases that read the remaining units so that they make up for the removed ones.

    Needs no labels and no gradients. ``affine`` and ``mean`` fit every consumer on the dense model's activations and
    are exact when the removed ones are an affine function of the kept ones; ``sequential`` goes through the blocks in
    order and fits each on what it will really read, and at last the classifier.

    Args:
        pruned: ``apply(dense, plan)``; changed in place.
        dense: The dense model.
        plan: What was kept.
        batches: Calibration images, normalised; labels are not read.
        config: The mode and the least ridge.
        precision: Of the forward passes; the solves are float64 always.

    Returns:
        The pruned model.

    Raises:
        XPrunerError: If the statistics are not finite.
    """
    config = config or CompensateConfig()
    if config.mode == "none":
        return pruned
    units = find_units(dense)
    with evaluating(dense), evaluating(pruned):
        if config.mode == "sequential":
            for group in units:
                _fit_to_stream(pruned, dense, group, batches, config.ridge, precision)
            for path in _classifiers(dense):
                _fit_classifier(pruned, dense, path, batches, config.ridge, precision)
            return pruned
        cut = [group for group in units if len(plan.keep.get(group.key, range(group.size))) < group.size]
        moments = consumer_moments(dense, Units(tuple(cut), 0, 0, units.input_size), batches, precision)
    for group in cut:
        kept, removed = channels(group, plan.keep[group.key])
        consumer: Any = dense.get_submodule(group.consumer)
        weight = consumer.weight.detach().double().cpu()
        predict = affine_prediction(moments[group.key], kept, removed, config)
        mean = moments[group.key].mean
        _add(
            _reader(pruned, group),
            weight[:, removed] @ predict,
            weight[:, removed] @ (mean[removed] - predict @ mean[kept]),
            group.key,
        )
    return pruned


def channels(group: UnitGroup, keep: list[int]) -> tuple[Tensor, Tensor]:
    """Returns the consumer's input channels that stay and those that go, ascending."""
    kept = torch.zeros(group.size, dtype=torch.bool)
    kept[keep] = True
    wide = kept.repeat_interleave(group.width)
    return wide.nonzero()[:, 0], (~wide).nonzero()[:, 0]


def affine_prediction(moments: Moments, kept: Tensor, removed: Tensor, config: CompensateConfig) -> Tensor:
    """B (removed, kept) with x_P - mu_P = B (x_S - mu_S): Sigma_PS (Sigma_SS + lam I)^-1, or zeros for ``mean``."""
    if config.mode == "mean":
        return torch.zeros(len(removed), len(kept), dtype=torch.float64)
    return solve_ridge(
        moments.covariance[kept][:, kept], moments.covariance[kept][:, removed], moments.count, config.ridge
    )


def solve_ridge(covariance: Tensor, cross: Tensor, samples: int, least: float) -> Tensor:
    """Returns (outputs, inputs): cross^T (covariance + lam I)^-1 by a float64 Cholesky factorisation.

    Args:
        covariance: (inputs, inputs) float64.
        cross: (inputs, outputs) float64 covariance of the inputs with what is predicted.
        samples: Rows behind the covariance.
        least: Smallest ridge, as a share of the mean variance.

    Raises:
        XPrunerError: If a statistic is not finite, or the ridge too small for its rounding errors.
    """
    if not (torch.isfinite(covariance).all() and torch.isfinite(cross).all()):
        raise XPrunerError("The calibration statistics are not finite; check the images and use precision fp32.")
    if not len(covariance):
        return cross.T
    lam = ridge(covariance, samples, least)
    factor, failed = torch.linalg.cholesky_ex(covariance + lam * torch.eye(len(covariance), dtype=covariance.dtype))
    if failed:
        raise XPrunerError(f"A ridge of {least:g} is too small for the calibration statistics; raise compensate.ridge.")
    return torch.cholesky_solve(cross, factor).T


@torch.no_grad()
def _fit_to_stream(
    pruned: nn.Module, dense: nn.Module, group: UnitGroup, batches: Batches, least: float, precision: str
) -> None:
    """Fits one consumer so that the residual stream after its branch comes closest to the dense model's.

    With z what the consumer reads in the pruned model, the ridge regression is of the remaining error
    r = dense output + (dense stream - pruned stream) / scale - W z, where scale is the branch's layer scale. Where the
    branch ends in a norm the stream cannot be aimed at, and the target is the dense output alone.
    """
    reader = _reader(pruned, group)
    source: Any = dense.get_submodule(group.consumer)
    point = stream_point(dense, group)
    path = group.module if isinstance(reader, ConstantBranch) else group.consumer
    inputs = 0 if isinstance(reader, ConstantBranch) else reader.in_features
    moments = Moments(inputs, source.out_features)
    device = source.weight.device
    for images, _ in batches:
        images = images.to(device)
        read = _until(pruned, [point.norm, path], path, images, precision)
        wanted = _until(dense, [point.norm, group.consumer], group.consumer, images, precision)
        target = source(wanted[group.consumer].float())
        if point.aims_at_stream:
            error = wanted[point.norm].float() - read[point.norm].float()
            target = target + point.arrange(error).reshape(target.shape) / point.scale
        z = read[path].float()
        if isinstance(reader, ConstantBranch):
            moments.update(z[..., :0], target - reader.bias)
        else:
            moments.update(z, target - reader(z))
    change = solve_ridge(moments.covariance, moments.cross_covariance, moments.count, least)
    _add(reader, change, moments.mean_y - change @ moments.mean, group.key)


def _classifiers(model: Any) -> list[str]:
    """Returns the paths of the linear layers that make the logits; two in a distilled model."""
    heads = model.get_classifier()
    wanted = [id(head) for head in (heads if isinstance(heads, tuple) else (heads,))]
    return [path for path, module in model.named_modules() if id(module) in wanted and isinstance(module, nn.Linear)]


@torch.no_grad()
def _fit_classifier(
    pruned: nn.Module, dense: nn.Module, path: str, batches: Batches, least: float, precision: str
) -> None:
    """Fits the classifier so that its logits come closest to the dense model's; one sample an image, no labels."""
    reader: Any = pruned.get_submodule(path)
    source: Any = dense.get_submodule(path)
    moments = Moments(reader.in_features, reader.out_features)
    for images, _ in batches:
        images = images.to(source.weight.device)
        z = _until(pruned, [path], path, images, precision)[path].float()
        wanted = source(_until(dense, [path], path, images, precision)[path].float())
        moments.update(z, wanted - reader(z))
    change = solve_ridge(moments.covariance, moments.cross_covariance, moments.count, least)
    _add(reader, change, moments.mean_y - change @ moments.mean, path)


class _Reached(Exception):
    """Ends a forward pass at the module where it has served its purpose."""


def _until(model: nn.Module, paths: list[str], last: str, images: Tensor, precision: str) -> dict[str, Tensor]:
    def stop(_module: nn.Module, _args: tuple) -> None:
        raise _Reached

    with reading(model, paths) as inputs:
        handle = model.get_submodule(last).register_forward_pre_hook(stop)
        try:
            with autocast(precision, images.device):
                model(images)
        except _Reached:
            pass
        finally:
            handle.remove()
    return dict(inputs)


def _reader(pruned: nn.Module, group: UnitGroup) -> Any:
    module = pruned.get_submodule(group.module)
    return module if isinstance(module, ConstantBranch) else pruned.get_submodule(group.consumer)


@torch.no_grad()
def _add(reader: Any, weight: Tensor, bias: Tensor, key: str) -> None:
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise XPrunerError(f"Compensation of {key!r} is not finite; raise compensate.ridge or use precision fp32.")
    if weight.numel():
        reader.weight += weight.to(reader.weight)
    if reader.bias is None:
        reader.bias = nn.Parameter(torch.zeros(len(bias), dtype=reader.weight.dtype, device=reader.weight.device))
    reader.bias += bias.to(reader.bias)
