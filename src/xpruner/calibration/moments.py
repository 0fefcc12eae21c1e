"""Streamed first and second moments of the consumers' inputs; never all activations at once."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import capture_inputs
from xpruner.units import Units
from xpruner.units.gates import channel_axis

Batches = Iterable[tuple[Tensor, Tensor]]
"""Batches of (images (batch, 3, height, width), labels (batch,)), to be read more than once, such as a list."""


class Moments:
    """Mean and (cross-)covariance of token vectors, summed in float64 from float32 products of one batch each.

    They are summed where the vectors are, and read on the CPU.

    Args:
        x_dim: Channels of x.
        y_dim: Channels of a second variable y; absent, the covariance is that of x with itself alone.
    """

    def __init__(self, x_dim: int, y_dim: int | None = None):
        self.count = 0
        self.sum_x = torch.zeros(x_dim, dtype=torch.float64)
        self.sum_xx = torch.zeros(x_dim, x_dim, dtype=torch.float64)
        self.sum_y = torch.zeros(y_dim or 0, dtype=torch.float64)
        self.sum_xy = torch.zeros(x_dim, y_dim or 0, dtype=torch.float64)

    def update(self, x: Tensor, y: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Adds the rows of x (..., x_dim), and of y (..., y_dim) in the same order.

        Args:
            x: The rows.
            y: Theirs.
            weights: (rows,) with mean 1: how much each counts; absent, all count alike.
        """
        x = x.detach().float().flatten(0, -2)
        weighed = x if weights is None else x * weights[:, None].to(x)
        self.count += len(x)
        self.sum_x = _added(self.sum_x, weighed.sum(0))
        self.sum_xx = _added(self.sum_xx, weighed.T @ x)
        if y is not None:
            y = y.detach().float().flatten(0, -2)
            self.sum_y = _added(self.sum_y, (y if weights is None else y * weights[:, None].to(y)).sum(0))
            self.sum_xy = _added(self.sum_xy, weighed.T @ y)

    @property
    def mean(self) -> Tensor:
        """The (x_dim,) mean of x."""
        return self.sum_x.cpu() / self.count

    @property
    def mean_y(self) -> Tensor:
        """The (y_dim,) mean of y."""
        return self.sum_y.cpu() / self.count

    @property
    def second(self) -> Tensor:
        """The (x_dim, x_dim) mean of x x^T."""
        return self.sum_xx.cpu() / self.count

    @property
    def covariance(self) -> Tensor:
        """The (x_dim, x_dim) covariance of x."""
        return self.second - torch.outer(self.mean, self.mean)

    @property
    def cross_covariance(self) -> Tensor:
        """The (x_dim, y_dim) covariance of x with y."""
        return self.sum_xy.cpu() / self.count - torch.outer(self.mean, self.mean_y)


def _added(total: Tensor, more: Tensor) -> Tensor:
    """Adds to a float64 sum, in place once it lies on the device of what is added, where that knows float64."""
    place = "cpu" if more.device.type == "mps" else more.device
    return total.to(place).add_(more.to(place))


def _inputs(layer: Any) -> int:
    return layer.weight.shape[1] * getattr(layer, "groups", 1)


def channels_last(layer: nn.Module, x: Tensor) -> Tensor:
    """Returns an input or output of a layer with its channels in the last dimension."""
    return x.movedim(channel_axis(layer), -1)


@torch.no_grad()
def consumer_moments(model: nn.Module, units: Units, batches: Batches, precision: str = "fp32") -> dict[str, Moments]:
    """Returns the moments of every consumer's input over all tokens of the batches, by the keys of its groups.

    Groups with one consumer share their moments; groups without a consumer have none.

    Args:
        model: In the mode it should be measured in, usually eval.
        units: Its groups.
        batches: Calibration images; labels are not read.
        precision: Of the forward pass; the sums are float64 whatever it is.
    """
    consumers = units.of_consumers()
    moments = {path: Moments(_inputs(model.get_submodule(path))) for path in consumers}
    device = next(model.parameters()).device
    with capture_inputs(model, consumers) as inputs:
        for images, _ in batches:
            with autocast(precision, device):
                model(images.to(device))
            for path, found in moments.items():
                found.update(channels_last(model.get_submodule(path), inputs[path]))
    return {group.key: moments[path] for path, groups in consumers.items() for group in groups}
