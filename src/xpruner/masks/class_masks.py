"""Explainability-aware masks: how much every unit contributes to predicting each class, and their regularisers."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.errors import UsageError
from xpruner.units import Units
from xpruner.units.gates import gating

Importance = Literal["mean", "max", "abs_sum", "odds"]


class ClassMasks(nn.Module):
    """For each unit group a (classes, units) table m = sigmoid(a), in full or of low rank.

    Gating a sample of class y multiplies the output of unit u by m[y, u]. Shape, activation and initialisation are our
    reconstruction; the sources state only that the mask is differentiable, class-wise and learned end to end.

    Args:
        units: The model's groups.
        num_classes: Rows of the table.
        rank: None for a full table of logits a (classes, units); r for a = A B^T + b with A (classes, r) shared by a
            group's units, B (units, r) and b (units,), which costs (classes + units) r numbers.
        init: Value of every mask at the start, in (0, 1).
        seed: Of the factor A, which starts at random.

    Raises:
        UsageError: If ``init`` or ``rank`` is out of range.
    """

    def __init__(self, units: Units, num_classes: int, rank: int | None = None, init: float = 0.95, seed: int = 0):
        super().__init__()
        if not 0 < init < 1:
            raise UsageError(f"masks.init is {init}; it must lie between 0 and 1, such as 0.95.")
        if rank is not None and rank < 1:
            raise UsageError(f"masks.rank is {rank}; it must be 1 or more, or absent for a full table.")
        self.units, self.num_classes, self.rank = units, num_classes, rank
        start = math.log(init / (1 - init))
        generator = torch.Generator().manual_seed(seed)
        tables = {
            _name(group.key): _LowRank(num_classes, group.size, rank, start, generator)
            if rank
            else _Full(num_classes, group.size, start)
            for group in units
        }
        self.tables = nn.ModuleDict(tables)

    def logits(self, key: str) -> Tensor:
        """Returns the (classes, units) logits a of a group."""
        return self.tables[_name(key)]()

    def values(self) -> dict[str, Tensor]:
        """Returns the (classes, units) masks m of every group."""
        return {group.key: torch.sigmoid(self.logits(group.key)) for group in self.units}

    def gates(self, labels: Tensor, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns each sample's gates, (batch, units) a group.

        Args:
            labels: (batch,) class indices, or (batch, classes) soft labels t, for which the gate is sum_c t[c] m[c, u].
            values: The masks, when already computed.
        """
        values = values or self.values()
        if labels.ndim == 1:
            return {key: m[labels] for key, m in values.items()}
        return {key: labels.to(m.dtype) @ m for key, m in values.items()}

    def gating(self, model: nn.Module, labels: Tensor) -> AbstractContextManager[None]:
        """Gates the model by the masks of the samples' labels while the block runs.

        Only for learning: the label decides the gates, so accuracy under this gating is no measure of the model.
        """
        return gating(model, self.units, self.gates(labels))

    def importance(self, kind: Importance = "mean", values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns s (units,) of every group, as :func:`reduce_classes`."""
        return {key: reduce_classes(m, kind) for key, m in (values or self.values()).items()}

    @torch.no_grad()
    def start_from(self, evidence: Mapping[str, Tensor], quantile: float = 0.5, resource: str = "macs") -> float:
        """Sets m[c, u] = e / (e + e0), with e the evidence per cost and e0 its quantile over all units [our choice].

        Args:
            evidence: For each group a (classes, units) table, not negative.
            quantile: Share of the units that begin with a class-mean evidence below e0, so with masks below one half.
            resource: What a unit costs: ``macs`` or ``params``.

        Returns:
            e0.
        """
        per_cost = {group.key: evidence[group.key].double() / getattr(group, resource) for group in self.units}
        level = torch.cat([e.mean(0) for e in per_cost.values()]).quantile(quantile).clamp(min=1e-300)
        for key, e in per_cost.items():
            table: Any = self.tables[_name(key)]
            table.set((e / level).clamp(min=1e-6).log().float())
        return level.item()

    def tensors(self) -> dict[str, Tensor]:
        """Returns the (classes, units) masks by group key, detached, on the CPU: what is stored and explained."""
        return {key: m.detach().cpu().contiguous() for key, m in self.values().items()}


def reduce_classes(m: Tensor, kind: Importance) -> Tensor:
    """Returns (units,) importance from (classes, units) masks.

    ``mean`` and ``max`` over the classes; ``abs_sum`` |sum_c m| (the paper's first version); ``odds`` the mean of
    m / (1 - m), which does not saturate: a unit that one class needs badly counts as much as one that all need a
    little. For masks started from evidence it is the mean evidence over e0.
    """
    if kind == "mean":
        return m.mean(0)
    if kind == "max":
        return m.amax(0)
    if kind == "odds":
        return odds(m).mean(0)
    return m.sum(0).abs()


def odds(m: Tensor) -> Tensor:
    """Returns m / (1 - m), of masks that are held a millionth away from 0 and 1."""
    return torch.special.logit(m, eps=1e-6).exp()


def rescaled(m: Tensor, factor: float) -> Tensor:
    """Returns the masks whose odds m / (1 - m) are those of ``m`` times a factor."""
    return torch.sigmoid(torch.special.logit(m, eps=1e-7) + math.log(factor))


class _Full(nn.Module):
    def __init__(self, classes: int, units: int, start: float):
        super().__init__()
        self.a = nn.Parameter(torch.full((classes, units), start))

    def forward(self) -> Tensor:
        return self.a

    def set(self, logits: Tensor) -> None:
        self.a.copy_(logits)


class _LowRank(nn.Module):
    def __init__(self, classes: int, units: int, rank: int, start: float, generator: torch.Generator):
        super().__init__()
        self.A = nn.Parameter(torch.randn(classes, rank, generator=generator) / math.sqrt(rank))
        self.B = nn.Parameter(torch.zeros(units, rank))
        self.b = nn.Parameter(torch.full((units,), start))

    def forward(self) -> Tensor:
        return self.A @ self.B.T + self.b

    def set(self, logits: Tensor) -> None:
        """The best approximation of this rank beside the mean over the classes."""
        self.b.copy_(logits.mean(0))
        left, values, right = torch.linalg.svd(logits - self.b, full_matrices=False)
        rank = min(self.A.shape[1], len(values))
        self.A[:, :rank].copy_(left[:, :rank])
        self.B.zero_()
        self.B[:, :rank].copy_(right[:rank].T * values[:rank])


def sparsity(values: Mapping[str, Tensor], units: Units) -> Tensor:
    """L_sparse: the mean of m, weighted by what each unit costs in MACs; between 0 and 1."""
    weights = {group.key: group.macs for group in units}
    total = sum(weights[key] * m.shape[1] for key, m in values.items())
    return torch.stack([weights[key] * m.mean(0).sum() for key, m in values.items()]).sum() / total


def class_variance(values: Mapping[str, Tensor]) -> Tensor:
    """L_smooth, across classes: the variance of m[:, u] over the classes, mean over all units."""
    return torch.cat([m.var(0, unbiased=False) for m in values.values()]).mean()


def total_variation(values: Mapping[str, Tensor]) -> Tensor:
    """L_smooth, along the unit axis: the mean of |m[c, u + 1] - m[c, u]| over classes, neighbours and groups."""
    steps = [(m[:, 1:] - m[:, :-1]).abs().flatten() for m in values.values()]
    return torch.cat(steps).mean()


class TemporalSmoothness(nn.Module):
    """L_smooth, in time: the mean squared distance of the masks from their own moving average.

    Args:
        values: The masks at the start, where the average begins.
        decay: Of the average; 0.9 remembers about ten steps.
    """

    def __init__(self, values: Mapping[str, Tensor], decay: float = 0.9):
        super().__init__()
        self.decay = decay
        for key, m in values.items():
            self.register_buffer(_name(key), m.detach().clone())

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Returns the penalty and then moves the average towards ``values``."""
        distances = []
        for key, m in values.items():
            average = self.get_buffer(_name(key))
            distances.append(F.mse_loss(m, average.clone(), reduction="none").flatten())
            average.lerp_(m.detach(), 1 - self.decay)
        return torch.cat(distances).mean()


def _name(key: str) -> str:
    return key.replace(".", "/")  # a ModuleDict's keys may not hold dots
