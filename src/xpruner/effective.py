"""Gates with compensation built in: the consumers' weights as a function of which units are kept [our choice]."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.evidence import own_part
from xpruner.moments import Moments, ridge
from xpruner.units import UnitGroup, Units


@dataclass
class _Fit:
    """One consumer, compensated for the units that were removed when it was fitted.

    Attributes:
        kept: (channels,) 1 where the channel was kept, else 0.
        weight: (outputs, channels) W': a channel's column with what it takes over, now or if it came back.
        own: (channels, channels) maps x - mu to the part of each unit that the kept ones cannot predict.
        mean: (channels,) mu.
        bias: (outputs,) the consumer's output at x = mu.
    """

    kept: Tensor
    weight: Tensor
    own: Tensor
    mean: Tensor
    bias: Tensor


class EffectiveWeights:
    """Turns gates into weights, so that a search sees the network that compensation will make of its choice.

    With hard gates the effective weight is the affine compensation of the consumer. Its derivative with respect to
    gate u is W'_u x~_u: what the unit's irreplaceable part contributes through everything that reads it, whether the
    unit is kept at present or not. Between two fits a change of the gates counts to first order, which is exact for
    one unit:

        M(k) = W' diag(k0) + W' diag(k - k0) A,    b(k) = b + (W - M(k)) mu

    Attributes:
        model: A copy of the dense model in which every consumer has a bias; call it with these weights.

    Args:
        model: The dense model; it stays as it is.
        units: Its groups.
        moments: Of the consumers' inputs in the dense model.
        least_ridge: Smallest ridge, as a share of the mean variance.
    """

    def __init__(self, model: nn.Module, units: Units, moments: Mapping[str, Moments], least_ridge: float = 1e-3):
        self.model, self.units = _with_biases(model, units), units
        self._means = {g.key: moments[g.key].mean for g in units}
        self._covariances = {}
        for group in units:
            covariance = moments[group.key].covariance
            lam = ridge(covariance, moments[group.key].count, least_ridge)
            self._covariances[group.key] = covariance + lam * torch.eye(len(covariance), dtype=covariance.dtype)
        self._fits: dict[str, _Fit] = {}

    @property
    def fitted(self) -> bool:
        """Whether the compensation was solved at least once."""
        return bool(self._fits)

    @torch.no_grad()
    def refit(self, keep: Mapping[str, Tensor]) -> None:
        """Solves the compensation anew for hard gates (units,), 0 or 1, of every group."""
        for group in self.units:
            self._fits[group.key] = self._fit(group, keep[group.key].bool().cpu().repeat_interleave(group.width))

    def weights(self, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the consumers' weights and biases by parameter name, for ``torch.func.functional_call``.

        Args:
            gates: (units,) gates of every group, near those of the last fit.
        """
        overrides = {}
        for group in self.units:
            fit = self._fits[group.key]
            change = gates[group.key].repeat_interleave(group.width) - fit.kept
            weight = fit.weight * fit.kept + (fit.weight * change) @ fit.own
            overrides[f"{group.consumer}.weight"] = weight
            overrides[f"{group.consumer}.bias"] = fit.bias - weight @ fit.mean
        return overrides

    def _fit(self, group: UnitGroup, kept: Tensor) -> _Fit:
        consumer: Any = self.model.get_submodule(group.consumer)
        weight = consumer.weight.detach().double().cpu()
        covariance, mean = self._covariances[group.key], self._means[group.key]
        inside, outside = kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]
        precision = torch.linalg.inv(covariance[inside][:, inside])
        predict = covariance[outside][:, inside] @ precision
        own = torch.eye(len(kept), dtype=torch.float64)
        own[outside[:, None], inside] = -predict
        own[inside[:, None], inside] = own_part(precision, group.width)
        residual = covariance[outside][:, outside] - predict @ covariance[inside][:, outside]
        compensated = torch.empty_like(weight)
        compensated[:, inside] = weight[:, inside] + weight[:, outside] @ predict
        compensated[:, outside] = weight[:, outside] @ over_own_blocks(residual, group.width)
        bias = weight @ mean + consumer.bias.detach().double().cpu()
        parts = (kept, compensated, own, mean, bias)
        return _Fit(*(part.to(consumer.weight) for part in parts))


def over_own_blocks(covariance: Tensor, width: int) -> Tensor:
    """Returns covariance[:, u] (covariance[u, u])^-1 for every unit u of ``width`` channels, side by side.

    It tells how all units follow when the unpredictable part of unit u alone is known.
    """
    size = len(covariance) // width
    columns = covariance.view(len(covariance), size, width)
    blocks = torch.diagonal(covariance.view(size, width, size, width), dim1=0, dim2=2).permute(2, 0, 1)
    return torch.linalg.solve(blocks, columns.permute(1, 2, 0)).permute(2, 0, 1).reshape(covariance.shape)


def _with_biases(model: nn.Module, units: Units) -> nn.Module:
    twin = copy.deepcopy(model)
    for group in units:
        consumer: Any = twin.get_submodule(group.consumer)
        if consumer.bias is None:
            consumer.bias = nn.Parameter(consumer.weight.new_zeros(consumer.weight.shape[0]))
    return twin
