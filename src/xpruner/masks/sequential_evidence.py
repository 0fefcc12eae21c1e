"""Sequential evidence: backward elimination, each unit scored given the units still kept.

Of two units that can replace each other, each looks dispensable while the other is kept. A unit's evidence is known in
two cases: with all other units kept only its irreplaceable part counts, with none of them all of it does. The units of
a group are eliminated one after the other, the least first; how much of a unit's variance the units still kept cannot
predict places its evidence between the two cases.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from xpruner.calibration.moments import Batches, Moments
from xpruner.calibration.ridge import ridged_covariance
from xpruner.calibration.unit_blocks import unit_blocks
from xpruner.masks.evidence import View, centred_view, evidence_tables, irreplaceable_view, softened
from xpruner.units import Units

AT_ONCE = 1 / 192
"""The share of a group that is eliminated before the scores of the rest are updated."""


def sequential_evidence(
    model: nn.Module,
    units: Units,
    batches: Batches,
    num_classes: int,
    moments: Mapping[str, Moments],
    *,
    whole: float = 0.0,
    temperature: float = 1.0,
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """Returns for each group a (classes, units) table of first-order evidence, each unit's given the units still kept.

    Compensation is fitted on few images and never carries over in full, so that a share of the evidence may be that of
    the whole unit: (1 - whole) e_sequential + whole e_taylor. Groups without a consumer, or whose consumers' moments
    are not given, get Taylor's evidence [our choice].

    Args:
        model: The dense model.
        units: Its groups.
        batches: Calibration images with labels.
        num_classes: Rows of the tables; a class without images gets the mean of the others.
        moments: Of the consumers' inputs.
        whole: Share of Taylor's evidence, between 0 and 1.
        temperature: Divides the logits.
        precision: Of the forward and backward pass.
    """
    known = [group for group in units if group.key in moments]
    means = {g.key: moments[g.key].mean for g in known}
    covariances = {g.key: ridged_covariance(moments[g.key]) for g in known}
    precisions = {key: torch.linalg.inv(covariance) for key, covariance in covariances.items()}
    views: list[dict[str, View]] = [
        {g.key: irreplaceable_view(means[g.key], precisions[g.key], g.channels) for g in known},
        {g.key: centred_view(means[g.key]) for g in known},
        {},
    ]
    among_all, alone, taylor = evidence_tables(
        model, units, batches, num_classes, views, precision, softened(temperature)
    )
    found = dict(taylor)
    for g in known:
        sequential = backward_elimination(
            among_all[g.key], alone[g.key], covariances[g.key], precisions[g.key], g.channels
        )
        found[g.key] = torch.lerp(sequential, taylor[g.key], whole)
    return found


def backward_elimination(
    among_all: Tensor, alone: Tensor, covariance: Tensor, precision: Tensor, channels: Tensor
) -> Tensor:
    """Returns the (classes, units) evidence of each unit when it is the least of the units still kept.

    Let r be the trace of a unit's covariance given the units still kept. Evidence moves from ``among_all`` to
    ``alone`` along log r: e = among_all^(1 - x) alone^x with x = log(r / r_all) / log(r_alone / r_all). A unit's class
    mean is never less than that of a unit eliminated before it.

    Args:
        among_all: (classes, units) evidence with all other units kept.
        alone: (classes, units) evidence with no other unit kept.
        covariance: (channels, channels) of the consumer's input.
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
        kept = torch.ones(len(waiting), dtype=torch.bool)
        kept[order] = False
        waiting = waiting[kept]
        precision, channels = _marginal(precision, channels, kept)
    return found.to(among_all)


def _variances(precision: Tensor, channels: Tensor) -> Tensor:
    """Returns for each unit the trace of its covariance given all other channels."""
    return _traces(torch.linalg.inv(unit_blocks(precision, channels)))


def _traces(blocks: Tensor) -> Tensor:
    return blocks.diagonal(dim1=1, dim2=2).sum(1)


def _marginal(precision: Tensor, channels: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the precision of the kept units' channels without the others, and which of them belong to each unit."""
    here = torch.ones(len(precision), dtype=torch.bool)
    here[channels[~kept]] = False
    between, eliminated = precision[here][:, ~here], precision[~here][:, ~here]
    left = precision[here][:, here] - between @ torch.linalg.solve(eliminated, between.T)
    return left, (here.cumsum(0) - 1)[channels[kept]]
