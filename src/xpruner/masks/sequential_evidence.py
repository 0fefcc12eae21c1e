"""Evidence at the moment of removal: what a unit is worth once the units that are worth less are gone.

Two units that stand in for each other both look dispensable while both are there. So a unit's evidence is known at
two ends: with all others there only its irreplaceable part counts, with none of them all of it does. Units of a group
go one after the other, the least first; after each, what the rest can no longer say about a unit tells how far it has
come from the one end to the other.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from xpruner.calibration.moments import Batches, Moments
from xpruner.calibration.ridge import ridged_covariance
from xpruner.calibration.unit_blocks import unit_blocks
from xpruner.masks.evidence import View, centred, evidence_tables, irreplaceable, softened
from xpruner.units import Units

AT_ONCE = 1 / 192
"""The share of a group that goes between two looks at the rest."""


def evidence_at_removal(
    model: nn.Module,
    units: Units,
    batches: Batches,
    num_classes: int,
    moments: Mapping[str, Moments],
    *,
    whole: float = 0.0,
    temperature: float = 1.0,
    least_ridge: float = 1e-3,
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """Returns for each group a (classes, units) table of first-order evidence, each unit's when its turn comes.

    Compensation is fitted on few images and never carries over in full, so that a share of the evidence may be that of
    the whole unit: (1 - whole) e_at_removal + whole e_taylor. Groups that no layer reads, or whose readers' moments
    are not given, get Taylor's evidence [our choice].

    Args:
        model: The dense model.
        units: Its groups.
        batches: Calibration images with labels.
        num_classes: Rows of the tables; a class without images gets the mean of the others.
        moments: Of the consumers' inputs.
        whole: Share of Taylor's evidence, between 0 and 1.
        temperature: Divides the logits.
        least_ridge: Smallest ridge, as a share of the mean variance.
        precision: Of the forward and backward pass.
    """
    known = [group for group in units if group.key in moments]
    means = {g.key: moments[g.key].mean for g in known}
    covariances = {g.key: ridged_covariance(moments[g.key], least_ridge) for g in known}
    precisions = {key: torch.linalg.inv(covariance) for key, covariance in covariances.items()}
    views: list[dict[str, View]] = [
        {g.key: irreplaceable(means[g.key], precisions[g.key], g.channels) for g in known},
        {g.key: centred(means[g.key]) for g in known},
        {},
    ]
    among_all, alone, taylor = evidence_tables(
        model, units, batches, num_classes, views, precision, softened(temperature)
    )
    found = dict(taylor)
    for g in known:
        at_turn = at_removal(among_all[g.key], alone[g.key], covariances[g.key], precisions[g.key], g.channels)
        found[g.key] = torch.lerp(at_turn, taylor[g.key], whole)
    return found


def at_removal(among_all: Tensor, alone: Tensor, covariance: Tensor, precision: Tensor, channels: Tensor) -> Tensor:
    """Returns the (classes, units) evidence of each unit at its turn, in the order in which the least goes first.

    Let r be the trace of a unit's covariance given the units that are still there. Evidence moves from ``among_all`` to
    ``alone`` along log r: e = among_all^(1 - x) alone^x with x = log(r / r_all) / log(r_alone / r_all). A unit's class
    mean is never less than that of one that went before it.

    Args:
        among_all: (classes, units) evidence with all other units there.
        alone: (classes, units) evidence with no other there.
        covariance: (channels, channels) of what the consumer reads.
        precision: Its inverse.
        channels: (units, channels of one unit) indices.
    """
    first, last = (table.double().clamp(min=1e-30).log() for table in (among_all, alone))
    begin, end = _variances(precision, channels).log(), _traces(unit_blocks(covariance, channels)).log()
    found = torch.empty_like(first)
    waiting, floor = torch.arange(len(channels)), torch.tensor(0.0, dtype=first.dtype)
    while len(waiting):
        way = (end - begin)[waiting].clamp(min=1e-3)
        x = ((_variances(precision, channels).log() - begin[waiting]) / way).clamp(0, 1)
        now = torch.lerp(first[:, waiting], last[:, waiting], x).exp()
        means, order = now.mean(0).sort()
        means, order = (t[: max(1, round(AT_ONCE * len(begin)))] for t in (means, order))
        raised = means.cummax(0).values.clamp(min=floor)
        found[:, waiting[order]] = now[:, order] * (raised / means)
        floor = raised[-1]
        stays = torch.ones(len(waiting), dtype=torch.bool)
        stays[order] = False
        waiting = waiting[stays]
        precision, channels = _without(precision, channels, stays)
    return found.to(among_all)


def _variances(precision: Tensor, channels: Tensor) -> Tensor:
    """Returns for each unit the trace of its covariance given all other channels."""
    return _traces(torch.linalg.inv(unit_blocks(precision, channels)))


def _traces(blocks: Tensor) -> Tensor:
    return blocks.diagonal(dim1=1, dim2=2).sum(1)


def _without(precision: Tensor, channels: Tensor, stays: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the precision of the channels that are left, and which of them belong to the units that stay."""
    here = torch.ones(len(precision), dtype=torch.bool)
    here[channels[~stays]] = False
    between, gone = precision[here][:, ~here], precision[~here][:, ~here]
    left = precision[here][:, here] - between @ torch.linalg.solve(gone, between.T)
    return left, (here.cumsum(0) - 1)[channels[stays]]
