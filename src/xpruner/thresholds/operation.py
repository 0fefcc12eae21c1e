"""The differentiable pruning operation, the layer-wise thresholds that it learns, and the budget that drives them."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from xpruner.plan.budget import minimum
from xpruner.units import Units

Form = Literal["power", "sigmoid"]
LEAST_SPREAD = 0.05
"""Of a layer's importance: less of it is taken for chance and not blown up."""


def pruning_operation(s: Tensor, theta: Tensor, n: float, form: Form = "power") -> Tensor:
    """k: close to 1 for importance s above the threshold and close to 0 below it; 1/2 where they are equal.

    The sources name a slope parameter n and no equation; both forms are our choice.

    Args:
        s: (units,) importance, not negative.
        theta: () threshold; positive for ``power``.
        n: Slope; larger is harder.
        form: ``power`` for s^n / (s^n + theta^n), ``sigmoid`` for sigmoid(n (s - theta)).

    Returns:
        (units,) how much of each unit is kept, from 0 to 1.
    """
    if form == "power":
        tiny = torch.finfo(s.dtype).tiny
        return torch.sigmoid(n * (s.clamp(min=tiny).log() - theta.clamp(min=tiny).log()))
    return torch.sigmoid(n * (s - theta))


def standardised(s: Tensor, form: Form = "power") -> Tensor:
    """A layer's importance in units of its own spread, so that a slope and an update mean the same in every layer.

    Masks that saturate lie so close together that a threshold would pass a whole layer within a few updates; a layer
    that is closed gets a gradient neither from the loss nor from the budget [our choice].

    Args:
        s: (units,) importance of one layer, not negative.
        form: Of the pruning operation: ``power`` measures ratios, ``sigmoid`` differences.

    Returns:
        (units,) importance with median 0 and standard deviation 1, or its exponential for ``power``, where log s is
        what is measured. A spread below ``LEAST_SPREAD`` counts as that much.
    """
    values = s.clamp(min=1e-30).log() if form == "power" else s
    known = values.detach()
    spread = known.std(correction=0).clamp(min=LEAST_SPREAD)
    relative = (values - known.median()) / spread
    return relative.exp() if form == "power" else relative


def slope(progress: float, start: float, end: float) -> float:
    """Returns the slope n after a share ``progress`` of the search, rising geometrically from ``start`` to ``end``."""
    return start * (end / start) ** progress


def warm_target(progress: float, budget: float, warmup: float) -> float:
    """Returns the cost allowed now, falling linearly from 1 to the budget during the first ``warmup`` of the search."""
    return 1 - (1 - budget) * min(1.0, progress / warmup) if warmup > 0 else budget


class Thresholds(nn.Module):
    """One learned threshold a group, so that each layer's pruning rate is learned.

    A threshold is stored so that one unit of the optimiser means the same everywhere: as log theta for the ``power``
    form, as theta for ``sigmoid``.

    Args:
        units: The model's groups.
        start: (groups,) theta at the start; positive for ``power``.
        form: Of the pruning operation.
    """

    def __init__(self, units: Units, start: Tensor, form: Form = "power"):
        super().__init__()
        self.units, self.form = units, form
        self.raw = nn.Parameter(start.log() if form == "power" else start.clone())

    def theta(self) -> Tensor:
        """Returns the (groups,) thresholds, in the order of the units."""
        return self.raw.exp() if self.form == "power" else self.raw

    def keep(self, importance: Mapping[str, Tensor], n: float) -> dict[str, Tensor]:
        """Returns k (units,) of every group at slope n."""
        theta = self.theta()
        return {
            group.key: pruning_operation(importance[group.key], theta[i], n, self.form)
            for i, group in enumerate(self.units)
        }

    def margins(self, importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns how far each unit lies above its threshold: log s - log theta, or s - theta.

        Raising all thresholds by one common offset until the budget is met keeps the units with the largest margins.
        """
        theta = self.theta()
        if self.form == "power":
            return {g.key: importance[g.key].clamp(min=1e-30).log() - self.raw[i] for i, g in enumerate(self.units)}
        return {g.key: importance[g.key] - theta[i] for i, g in enumerate(self.units)}


def expected_cost(keep: Mapping[str, Tensor], units: Units, resource: str = "macs") -> Tensor:
    """F(k) / F(1): the share of the dense model's cost that remains when unit u counts k[u], differentiable in k."""
    return units.cost_of({key: k.mean() for key, k in keep.items()}, resource) / units.total(resource)


class AugmentedLagrangian(nn.Module):
    """The budget as a learned penalty: L = lam1 (F - t) + lam2 (F - t)^2, with ascent on both from 0.

    Args:
        rate: Ascent rate of lam1; lam2 rises ``curvature`` times as fast.
        curvature: Ratio of the two rates.
    """

    lam1: Tensor
    lam2: Tensor

    def __init__(self, rate: float = 1.0, curvature: float = 10.0):
        super().__init__()
        self.rate, self.curvature = rate, curvature
        self.register_buffer("lam1", torch.zeros(()))
        self.register_buffer("lam2", torch.zeros(()))

    def forward(self, cost: Tensor, target: float) -> Tensor:
        """Returns the penalty for a cost F (a share of the dense cost) against the target t."""
        gap = cost - target
        return self.lam1.clone() * gap + self.lam2.clone() * gap**2

    @torch.no_grad()
    def ascend(self, cost: float, target: float) -> None:
        """Raises lam1 by the gap and lam2 by its square; lam2 never falls."""
        gap = cost - target
        self.lam1 += self.rate * gap
        self.lam2 += self.rate * self.curvature * gap**2


class SquaredHinge(nn.Module):
    """The plain alternative: weight x max(0, F - t)^2, nothing learned."""

    def __init__(self, weight: float = 100.0):
        super().__init__()
        self.weight = weight

    def forward(self, cost: Tensor, target: float) -> Tensor:
        """Returns the penalty for a cost F against the target t."""
        return self.weight * (cost - target).clamp(min=0) ** 2

    def ascend(self, cost: float, target: float) -> None:
        """Nothing to learn."""


def project(
    margins: Mapping[str, Tensor], n: float, units: Units, target: float, resource: str = "macs"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The budget met exactly at every step, by one offset common to all thresholds [our choice].

    Args:
        margins: (units,) log s - log theta (or s - theta) of every group, differentiable.
        n: Slope.
        units: The model's groups.
        target: Share of the dense cost that may remain.
        resource: ``macs`` or ``params``.

    Returns:
        Soft gates k = sigmoid(n (margin - offset)) with F(k) = target, where the gradient knows that the offset
        follows the margins (implicit function theorem), and hard gates of 0 and 1 that meet the target as well.
    """
    sizes = [group.size for group in units]

    def grouped(gates: Tensor) -> dict[str, Tensor]:
        return dict(zip((group.key for group in units), gates.split(sizes), strict=True))

    def cost(gates: Tensor) -> Tensor:
        return expected_cost(grouped(gates), units, resource)

    all_margins = torch.cat([margins[group.key] for group in units])
    values = all_margins.detach()
    offset = torch.tensor(
        _bisect(lambda o: cost(torch.sigmoid(n * (values - o))) > target, values),
        dtype=values.dtype, device=values.device, requires_grad=True,
    )  # fmt: skip
    with torch.enable_grad():
        (slope_of_cost,) = torch.autograd.grad(cost(torch.sigmoid(n * (values - offset))), offset)
    offset = offset.detach()
    here = cost(torch.sigmoid(n * (all_margins - offset)))
    drift = here - here.detach()
    soft = torch.sigmoid(n * (all_margins - offset + drift / slope_of_cost.clamp(max=-1e-12)))
    protected = torch.cat([_protect(margins[group.key].detach(), minimum(group)) for group in units])
    edge = _bisect(lambda o: cost((protected > o).to(values.dtype)) > target, values)
    return grouped(soft), grouped((protected > edge).to(values.dtype))


def _protect(margins: Tensor, least: int) -> Tensor:
    """Lifts the ``least`` largest margins of a group above every offset: a plan keeps that many in any case."""
    return margins.index_fill(0, margins.topk(least).indices, float("inf"))


def _bisect(too_much, values: Tensor, rounds: int = 50) -> float:
    """Returns the least offset, within the range of the values, at which the cost is not too much."""
    low, high = values.min().item() - 20.0, values.max().item() + 20.0
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if too_much(middle) else (low, middle)
    return high
