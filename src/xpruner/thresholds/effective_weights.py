"""Gates with compensation built in: the consumers' weights as a function of which units are kept [our choice]."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.calibration.moments import Moments
from xpruner.calibration.ridge import ridged_covariance
from xpruner.calibration.unit_blocks import unit_blocks
from xpruner.errors import UsageError
from xpruner.masks.evidence import own_part
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
        model: The dense model; it is not changed.
        units: Its groups.
        moments: Of the consumers' inputs in the dense model.
    """

    def __init__(self, model: nn.Module, units: Units, moments: Mapping[str, Moments]):
        _check_one_kind_a_consumer(units)
        self.model, self.units = _with_biases(model, units), units
        self._means = {g.key: moments[g.key].mean for g in units}
        self._covariances = {}
        for group in units:
            self._covariances[group.key] = ridged_covariance(moments[group.key])
        self._fits: dict[str, _Fit] = {}

    @property
    def fitted(self) -> bool:
        """Whether the compensation was solved at least once."""
        return bool(self._fits)

    @torch.no_grad()
    def refit(self, keep: Mapping[str, Tensor]) -> None:
        """Solves the compensation again for hard gates (units,), 0 or 1, of every group."""
        for group in self.units:
            kept = keep[group.key].bool().cpu().repeat_interleave(group.gates[0].inner)
            self._fits[group.key] = self._fit(group, kept)

    def weights(self, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the consumers' weights and biases by parameter name, for ``torch.func.functional_call``.

        Args:
            gates: (units,) gates of every group, near those of the last fit.
        """
        overrides = {}
        for group in self.units:
            fit = self._fits[group.key]
            change = gates[group.key].repeat_interleave(group.gates[0].inner) - fit.kept
            weight = fit.weight * fit.kept + (fit.weight * change) @ fit.own
            overrides[f"{group.consumer}.weight"] = weight
            overrides[f"{group.consumer}.bias"] = fit.bias - weight @ fit.mean
        return overrides

    def _fit(self, group: UnitGroup, kept: Tensor) -> _Fit:
        consumer: Any = self.model.get_submodule(group.gates[0].path)
        weight = consumer.weight.detach().double().cpu()
        covariance, mean = self._covariances[group.key], self._means[group.key]
        inside, outside = kept.nonzero()[:, 0], (~kept).nonzero()[:, 0]
        precision = torch.linalg.inv(covariance[inside][:, inside])
        predict = covariance[outside][:, inside] @ precision
        own = torch.eye(len(kept), dtype=torch.float64)
        own[outside[:, None], inside] = -predict
        own[inside[:, None], inside] = own_part(precision, _blocks(len(inside), group))
        residual = covariance[outside][:, outside] - predict @ covariance[inside][:, outside]
        compensated = torch.empty_like(weight)
        compensated[:, inside] = weight[:, inside] + weight[:, outside] @ predict
        compensated[:, outside] = weight[:, outside] @ over_own_blocks(residual, _blocks(len(outside), group))
        bias = weight @ mean + consumer.bias.detach().double().cpu()
        parts = (kept, compensated, own, mean, bias)
        return _Fit(*(part.to(consumer.weight) for part in parts))


def _blocks(channels: int, group: UnitGroup) -> Tensor:
    return torch.arange(channels).view(-1, group.gates[0].inner)


def over_own_blocks(covariance: Tensor, channels: Tensor) -> Tensor:
    """Returns covariance[:, u] (covariance[u, u])^-1 for every unit u, side by side in the order of the channels.

    This is how all units follow when the unpredictable part of unit u alone is known.

    Args:
        covariance: (all channels, all channels).
        channels: (units, channels of one unit) indices.
    """
    over = torch.empty_like(covariance)
    over[:, channels] = torch.linalg.solve(unit_blocks(covariance, channels), covariance[channels]).permute(2, 0, 1)
    return over


def _check_one_kind_a_consumer(units: Units) -> None:
    consumers = units.of_consumers()
    for group in units:
        gate = group.gates[0]
        if group.consumer is None or len(consumers[group.consumer]) > 1 or (gate.outer, gate.before) != (1, 0):
            raise UsageError(
                "The compensated search by gradient steps knows heads and hidden units alone, not "
                f"{', '.join(dict.fromkeys(group.kind for group in units))}; set units to head and hidden, or "
                "thresholds.compensated to false, or thresholds.steps to 0."
            )


def _with_biases(model: nn.Module, units: Units) -> nn.Module:
    twin = copy.deepcopy(model)
    for group in units:
        consumer: Any = twin.get_submodule(group.gates[0].path)
        if consumer.bias is None:
            consumer.bias = nn.Parameter(consumer.weight.new_zeros(consumer.weight.shape[0]))
    return twin
