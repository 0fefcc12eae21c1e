"""Compensation: closed-form least squares on the consumers of what was cut, so that less accuracy is lost."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.calibration.incremental_forward import Passes
from xpruner.calibration.moments import Batches, Moments, channels_last, consumer_moments
from xpruner.calibration.ridge import ridge
from xpruner.calibration.sensitivity import token_weights
from xpruner.config import CompensateConfig
from xpruner.config.checks import check
from xpruner.errors import XPrunerError
from xpruner.plan.plan import Plan
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import classifiers
from xpruner.units import DEFAULT_KINDS, UnitGroup, Units, find_units
from xpruner.units.modules.branch import ConstantBranch
from xpruner.units.stream_points import StreamPoint, stream_point
from xpruner.units.streams import stream_key


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
        UsageError: If ``focus`` is out of range.
        XPrunerError: If the statistics are not finite.
    """
    config = config or CompensateConfig()
    check(config, "compensate.")
    if config.mode == "none":
        return pruned
    readers = _readers(pruned, dense, plan)
    with evaluating(dense), evaluating(pruned):
        if config.mode == "sequential":
            images = [batch for batch, _ in batches]
            passes = Passes(pruned, images, precision), Passes(dense, images, precision)
            paths = [reader.path for reader in readers]
            weights = token_weights(dense, paths, batches, config.focus or 0.0, precision=precision)
            for reader in readers:
                _fit_to_stream(reader, *passes, config.ridge, weights.get(reader.path))
            for path in classifiers(dense):
                _fit_classifier(path, *passes, config.ridge)
            return pruned
        cut = [reader for reader in readers if len(reader.removed)]
        groups = tuple(group for reader in cut for group in reader.groups)
        moments = consumer_moments(dense, Units(groups, 0, 0, (0, 0, 0)), batches, precision)
    for reader in cut:
        found = moments[reader.groups[0].key]
        weight = reader.source.weight.detach().double().cpu().flatten(1)[reader.outputs][:, reader.removed]
        predict = affine_prediction(found, reader.kept, reader.removed, config)
        bias = weight @ (found.mean[reader.removed] - predict @ found.mean[reader.kept])
        _add(reader.target, weight @ predict, bias, reader.path)
    return pruned


@dataclass(frozen=True)
class _Reader:
    """A consumer in the dense and in the pruned model.

    Attributes:
        pruned: The pruned model.
        dense: The dense model.
        path: Of the consumer in the dense model.
        groups: The groups that it reads.
        kept: Its input channels that stay, ascending.
        removed: Its input channels that go.
        outputs: Its output channels that stay; the others belong to cut embedding channels.
    """

    pruned: nn.Module
    dense: nn.Module
    path: str
    groups: list[UnitGroup]
    kept: Tensor
    removed: Tensor
    outputs: Tensor

    @property
    def source(self) -> Any:
        """The consumer in the dense model."""
        return self.dense.get_submodule(self.path)

    @property
    def branch(self) -> str:
        """The path of the module whose units it reads."""
        return self.groups[0].module

    @property
    def target(self) -> Any:
        """What stands for the consumer in the pruned model: itself, or the constant that is left of its branch."""
        module = self.pruned.get_submodule(self.branch)
        return module if isinstance(module, ConstantBranch) else self.pruned.get_submodule(self.path)


def _readers(pruned: nn.Module, dense: nn.Module, plan: Plan) -> list[_Reader]:
    """Returns every consumer that is left and is linear in its input, in forward order."""
    kinds = {key.rpartition(":")[2] for key in plan.keep}
    if not kinds <= set(DEFAULT_KINDS):
        kinds |= set(DEFAULT_KINDS)  # whatever was cut, these are what can make up for it
    skipped = [key.rpartition(":")[0] for key, indices in plan.keep.items() if key.endswith(":block") and not indices]
    readers = []
    for path, groups in find_units(dense, sorted(kinds or DEFAULT_KINDS)).of_consumers().items():
        layer: Any = dense.get_submodule(path)
        gone = any(path.startswith(f"{block}.") for block in skipped)
        if gone or not _is_linear(layer) or path in classifiers(dense):
            continue
        kept, removed = channels(groups, plan, layer.weight.shape[1])
        outputs = plan.keep.get(stream_key(dense, path), range(layer.weight.shape[0]))
        readers.append(_Reader(pruned, dense, path, groups, kept, removed, torch.tensor(list(outputs))))
    return readers


def _is_linear(layer: Any) -> bool:
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    )


def channels(groups: list[UnitGroup], plan: Plan, count: int) -> tuple[Tensor, Tensor]:
    """Returns which of a consumer's ``count`` input channels stay and which go, ascending."""
    kept = torch.ones(count, dtype=torch.bool)
    for group in groups:
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[plan.keep.get(group.key, range(group.size))] = False
        kept[group.channels[gone].flatten()] = False
    return kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]


def affine_prediction(moments: Moments, kept: Tensor, removed: Tensor, config: CompensateConfig) -> Tensor:
    """B (removed, kept) with x_P - mu_P = B (x_S - mu_S): Sigma_PS (Sigma_SS + lam I)^-1, or zeros for ``mean``."""
    if config.mode == "mean":
        return torch.zeros(len(removed), len(kept), dtype=torch.float64)
    return solve_ridge(
        moments.covariance[kept][:, kept], moments.covariance[kept][:, removed], moments.count, config.ridge
    )


def solve_ridge(covariance: Tensor, cross: Tensor, samples: float, least: float) -> Tensor:
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
def _fit_to_stream(reader: _Reader, pruned: Passes, dense: Passes, least: float, weights: Tensor | None) -> None:
    """Fits one consumer so that the residual stream after its branch comes closest to the dense model's.

    With z what the consumer reads in the pruned model, the ridge regression is of the remaining error
    r = dense output + (dense stream - pruned stream) / scale - W z, where scale is the branch's layer scale. Where the
    stream cannot be aimed at, as behind a branch that ends in a norm, the target is the dense output alone. Weights
    (rows of an image,) say how much each row counts; with them the data count as Kish's effective number of rows.
    """
    target, source = reader.target, reader.source
    empty = isinstance(target, ConstantBranch)
    path = reader.branch if empty else reader.path
    moments = Moments(0 if empty else len(reader.kept), len(reader.outputs))
    point = stream_point(reader.dense, reader.branch)
    norms = [point.norm] if point else []
    for read, seen in zip(pruned.read([*norms, path]), dense.read([*norms, reader.path]), strict=True):
        aim = channels_last(source, source(seen[reader.path].float()))[..., reader.outputs]
        if point:
            behind = seen[point.norm].float()[..., reader.outputs] - read[point.norm].float()
            aim = aim + _over_scale(point, behind, reader).reshape(aim.shape)
        z = read[path].float()
        of_rows = None if weights is None else weights.repeat(aim.shape[:-1].numel() // len(weights))
        if empty:
            moments.update(channels_last(source, z)[..., :0], aim - target.bias, of_rows)
        else:
            moments.update(channels_last(source, z), aim - channels_last(source, target(z)), of_rows)
    samples = moments.count if weights is None else moments.count / weights.square().mean().item()
    change = solve_ridge(moments.covariance, moments.cross_covariance, samples, least)
    _add(target, change, moments.mean_y - change @ moments.mean, reader.path)


def _over_scale(point: StreamPoint, stream: Tensor, reader: _Reader) -> Tensor:
    scale = point.scale[reader.outputs] if isinstance(point.scale, Tensor) else point.scale
    return point.arrange(stream) / scale


@torch.no_grad()
def _fit_classifier(path: str, pruned: Passes, dense: Passes, least: float) -> None:
    """Fits the classifier so that its logits come closest to the dense model's; one sample an image, no labels."""
    reader: Any = pruned.model.get_submodule(path)
    source: Any = dense.model.get_submodule(path)
    moments = Moments(reader.in_features, reader.out_features)
    for read, seen in zip(pruned.read([path]), dense.read([path]), strict=True):
        z = read[path].float()
        moments.update(z, source(seen[path].float()) - reader(z))
    change = solve_ridge(moments.covariance, moments.cross_covariance, moments.count, least)
    _add(reader, change, moments.mean_y - change @ moments.mean, path)


@torch.no_grad()
def _add(reader: Any, weight: Tensor, bias: Tensor, key: str) -> None:
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise XPrunerError(f"Compensation of {key!r} is not finite; raise compensate.ridge or use precision fp32.")
    if weight.numel():
        reader.weight += weight.to(reader.weight).view(reader.weight.shape)
    if reader.bias is None:
        reader.bias = nn.Parameter(torch.zeros(len(bias), dtype=reader.weight.dtype, device=reader.weight.device))
    reader.bias += bias.to(reader.bias)
