"""Whether the masks speak of classes: what closing the units that a class marks costs it, and the others."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xpruner.errors import UsageError
from xpruner.explain.without import losses_without
from xpruner.moments import Batches
from xpruner.units import Units


@dataclass(frozen=True)
class Selectivity:
    """What closing the units costs that one class marks.

    Attributes:
        label: The class.
        own: Percentage points of top-1 that it loses.
        others: Percentage points that the other classes lose on average.
    """

    label: int
    own: float
    others: float


def selectivity(
    model: nn.Module,
    units: Units,
    tables: Mapping[str, Tensor],
    batches: Batches,
    *,
    share: float = 0.1,
    precision: str = "fp32",
) -> list[Selectivity]:
    """Returns for every class what it and the others lose without the units that its row marks as most important.

    Args:
        model: The dense model.
        units: Its groups; those without a table stay open.
        tables: (classes, units) by group key, comparable across groups: masks, or evidence per MAC.
        batches: Images with labels; classes without any are left out.
        share: Of all units that have a table, to be closed.
        precision: Of the forward passes.

    Raises:
        UsageError: If the share is out of range.
    """
    if not 0 < share < 1:
        raise UsageError(f"A share of {share} of the units cannot be closed; choose one between 0 and 1, such as 0.1.")
    classes = len(next(iter(tables.values())))
    labels = torch.cat([labels for _, labels in batches]).unique().tolist()
    choices = [marked(tables, label, share) for label in labels]
    found = []
    for label, loss in zip(labels, losses_without(model, units, choices, batches, classes, precision), strict=True):
        others = [loss.top1[other].item() for other in labels if other != label]
        found.append(Selectivity(label, loss.top1[label].item(), sum(others) / max(len(others), 1)))
    return found


def marked(tables: Mapping[str, Tensor], label: int, share: float) -> dict[str, list[int]]:
    """Returns by group key the share of all units with the largest values in the row of a class; one at least."""
    row = torch.cat([table[label] for table in tables.values()])
    most = torch.zeros(len(row), dtype=torch.bool)
    most[row.argsort(descending=True, stable=True)[: max(1, round(share * len(row)))]] = True
    parts = most.split([table.shape[1] for table in tables.values()])
    return {key: part.nonzero().flatten().tolist() for key, part in zip(tables, parts, strict=True) if part.any()}
