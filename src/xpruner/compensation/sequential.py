"""Sequential compensation: consumers in forward order, each fitted on its input in the network as it is by then."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.calibration.incremental_forward import IncrementalForward
from xpruner.calibration.moments import Batches, Moments, channels_last
from xpruner.calibration.sensitivity import token_weights
from xpruner.compensation.consumers import Consumer
from xpruner.compensation.solve import add_to, solve_ridge
from xpruner.config import CompensateConfig
from xpruner.runtime.outputs import classifiers
from xpruner.units.modules.branch import ConstantBranch
from xpruner.units.stream_points import StreamPoint, stream_point


def fit_in_order(
    consumers: Sequence[Consumer],
    pruned: nn.Module,
    dense: nn.Module,
    batches: Batches,
    config: CompensateConfig,
    precision: str,
) -> None:
    """Fits the consumers in forward order, each on what the ones before it left, and then the classifiers."""
    images = [batch for batch, _ in batches]
    passes = IncrementalForward(pruned, images, precision), IncrementalForward(dense, images, precision)
    paths = [consumer.path for consumer in consumers]
    weights = token_weights(dense, paths, batches, config.focus or 0.0, precision=precision)
    for consumer in consumers:
        fit_to_stream(consumer, *passes, config.ridge, weights.get(consumer.path))
    for path in classifiers(dense):
        fit_classifier(path, *passes, config.ridge)


@torch.no_grad()
def fit_to_stream(
    consumer: Consumer, pruned: IncrementalForward, dense: IncrementalForward, least: float, weights: Tensor | None
) -> None:
    """Fits one consumer so that the residual stream after its branch comes closest to the dense model's.

    With z the consumer's input in the pruned model, the ridge regression is of the remaining error
    r = dense output + (dense stream - pruned stream) / scale - W z, where scale is the branch's layer scale. Where the
    stream cannot be aimed at, as behind a branch that ends in a norm, the target is the dense output alone. ``weights``
    (rows of an image,) are how much each row counts; with them the data count as Kish's effective number of rows.
    """
    target, source = consumer.target, consumer.source
    empty = isinstance(target, ConstantBranch)
    path = consumer.branch if empty else consumer.path
    moments = Moments(0 if empty else len(consumer.kept), len(consumer.outputs))
    point = stream_point(consumer.dense, consumer.branch)
    norms = [point.norm] if point else []
    for read, seen in zip(pruned.read([*norms, path]), dense.read([*norms, consumer.path]), strict=True):
        aim = channels_last(source, source(seen[consumer.path].float()))[..., consumer.outputs]
        if point:
            behind = seen[point.norm].float()[..., consumer.outputs] - read[point.norm].float()
            aim = aim + _over_scale(point, behind, consumer).reshape(aim.shape)
        z = read[path].float()
        of_rows = None if weights is None else weights.repeat(aim.shape[:-1].numel() // len(weights))
        if empty:
            moments.update(channels_last(source, z)[..., :0], aim - target.bias, of_rows)
        else:
            moments.update(channels_last(source, z), aim - channels_last(source, target(z)), of_rows)
    samples = moments.count if weights is None else moments.count / weights.square().mean().item()
    change = solve_ridge(moments.covariance, moments.cross_covariance, samples, least)
    add_to(target, change, moments.mean_y - change @ moments.mean, consumer.path)


def _over_scale(point: StreamPoint, stream: Tensor, consumer: Consumer) -> Tensor:
    scale = point.scale[consumer.outputs] if isinstance(point.scale, Tensor) else point.scale
    return point.arrange(stream) / scale


@torch.no_grad()
def fit_classifier(path: str, pruned: IncrementalForward, dense: IncrementalForward, least: float) -> None:
    """Fits the classifier so that its logits come closest to the dense model's; one sample an image, no labels."""
    consumer: Any = pruned.model.get_submodule(path)
    source: Any = dense.model.get_submodule(path)
    moments = Moments(consumer.in_features, consumer.out_features)
    for read, seen in zip(pruned.read([path]), dense.read([path]), strict=True):
        z = read[path].float()
        moments.update(z, source(seen[path].float()) - consumer(z))
    change = solve_ridge(moments.covariance, moments.cross_covariance, moments.count, least)
    add_to(consumer, change, moments.mean_y - change @ moments.mean, path)
