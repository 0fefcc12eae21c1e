"""Whether the masks are specific to classes: what ablating the units that a class marks costs it, and the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from xpruner.calibration.moments import Batches
from xpruner.data import calibration_batches
from xpruner.data.class_names import unique_names
from xpruner.errors import UsageError, unknown
from xpruner.explain.ablation import ablation_effects
from xpruner.masks.evidence import class_evidence
from xpruner.run.finished import BATCH, FinishedRun
from xpruner.units import Units

EVERY = "all"
"""Kinds of unit."""


@dataclass(frozen=True)
class Selectivity:
    """What ablating the units that one class marks costs.

    Attributes:
        label: The class.
        own: Percentage points of top-1 that it loses.
        others: Percentage points that the other classes lose on average.
    """

    label: int
    own: float
    others: float


@dataclass(frozen=True)
class Summary:
    """The classes together.

    Attributes:
        own: Mean over the classes of the points that each loses without its own units.
        others: Mean of those that the other classes lose meanwhile.
        ratio: The first over the second; None where the others lose nothing.
        classes: Each one.
    """

    own: float
    others: float
    ratio: float | None
    classes: list[Selectivity]

    @classmethod
    def of(cls, classes: Sequence[Selectivity]) -> "Summary":
        """Returns the summary of one class or more."""
        own, others = fmean(c.own for c in classes), fmean(c.others for c in classes)
        return cls(own, others, own / others if others else None, list(classes))


@dataclass(frozen=True)
class SelectivityCard:
    """A run's masks beside Taylor's score.

    Attributes:
        kind: Of the units that are ablated.
        share: Of them that are ablated for a class.
        images: On how many images the losses were measured.
        class_names: By label.
        by: What the units were ranked by, ``masks`` or ``Taylor``, and what came of it.
    """

    kind: str
    share: float
    images: int
    class_names: list[str]
    by: dict[str, Summary]


def selectivity_card(
    run: FinishedRun, kind: str = "hidden", share: float = 0.1, count: int | None = None
) -> SelectivityCard:
    """Returns what each class and the others lose without the units that its row of the masks, and Taylor's, marks.

    Taylor's score is the class evidence per MAC, measured on the run's calibration images. Classes that the masks have
    seen no image of are left out.

    Args:
        run: A run with masks.
        kind: Of unit that is ablated, or :data:`EVERY`, ranked together.
        share: Of these units, for each class.
        count: How many of the run's images to measure on at most, evenly spread; all when absent.

    Raises:
        UsageError: If the run has no masks or no units of this kind, or the share is out of range.
    """
    groups = [group for group in run.units if kind in (group.kind, EVERY)]
    if not groups:
        raise unknown("kind of unit in this run", kind, {EVERY, *(group.kind for group in run.units)})
    _check(share)
    masks, precision = run.dense_masks, run.config.precision
    calibration = calibration_batches(run.data.calibration, BATCH)
    evidence = class_evidence(run.dense, run.units, calibration, run.data.num_classes, precision=precision)
    tables = {
        "masks": {group.key: masks[group.key] for group in groups},
        "Taylor": {group.key: evidence[group.key] / group.macs for group in groups},
    }
    numbers, images = run.some_images(len(run.images) if count is None else count)
    by = {
        name: Summary.of(
            [
                found
                for found in selectivity(run.dense, run.units, table, images, share=share, precision=precision)
                if found.label not in run.unseen
            ]
        )
        for name, table in tables.items()
    }
    return SelectivityCard(kind, share, len(numbers), unique_names(run.class_names), by)


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
        units: Its groups; those without a table are not ablated.
        tables: (classes, units) by group key, comparable across groups: masks, or evidence per MAC.
        batches: Images with labels; classes without any are left out.
        share: Of all units that have a table, to be ablated.
        precision: Of the forward passes.

    Raises:
        UsageError: If the share is out of range.
    """
    _check(share)
    classes = len(next(iter(tables.values())))
    labels = torch.cat([labels for _, labels in batches]).unique().tolist()
    choices = [marked(tables, label, share) for label in labels]
    found = []
    effects = ablation_effects(model, units, choices, batches, classes, precision)
    for label, effect in zip(labels, effects, strict=True):
        others = [effect.top1[other].item() for other in labels if other != label]
        found.append(Selectivity(label, effect.top1[label].item(), sum(others) / max(len(others), 1)))
    return found


def marked(tables: Mapping[str, Tensor], label: int, share: float) -> dict[str, list[int]]:
    """Returns by group key the share of all units with the largest values in the row of a class; one at least."""
    row = torch.cat([table[label] for table in tables.values()])
    most = torch.zeros(len(row), dtype=torch.bool)
    most[row.argsort(descending=True, stable=True)[: max(1, round(share * len(row)))]] = True
    parts = most.split([table.shape[1] for table in tables.values()])
    return {key: part.nonzero().flatten().tolist() for key, part in zip(tables, parts, strict=True) if part.any()}


def _check(share: float) -> None:
    if not 0 < share < 1:
        raise UsageError(f"A share of {share} of the units cannot be ablated; choose one between 0 and 1, such as 0.1.")
