"""Cards of classes: layer by layer, which units carry a class, and which of them were kept."""

from dataclasses import dataclass

from xpruner.data.class_names import unique_names
from xpruner.masks.class_masks import odds
from xpruner.run.finished import FinishedRun

SHOWN = 5
"""Of the units of a layer."""


@dataclass(frozen=True)
class Carrier:
    """A unit that a class needs.

    Attributes:
        unit: Its index.
        mask: Of the class, in the dense model.
        times: How much more evidence, in odds of the masks, it has for this class than for the others on average.
        kept: Whether it was kept.
    """

    unit: int
    mask: float
    times: float
    kept: bool


@dataclass(frozen=True)
class Layer:
    """What one group does for a class.

    Attributes:
        key: Of the group.
        units: How many it had.
        kept: How many were kept.
        share_kept: Share of the class's evidence in the dense model, the odds of its masks, that the kept units hold.
        carried_by: The units that the class needs most.
    """

    key: str
    units: int
    kept: int
    share_kept: float
    carried_by: list[Carrier]


@dataclass(frozen=True)
class ClassCard:
    """One class.

    Attributes:
        name: Of the class.
        layers: In the order of the forward pass; none where the class is not ``seen``.
        seen: Whether the masks have seen an image of the class; else nothing is known of it.
    """

    name: str
    layers: list[Layer]
    seen: bool = True


def class_card(run: FinishedRun, label: int) -> ClassCard:
    """Returns the card of one class; needs no images.

    Args:
        run: A run with masks.
        label: Of the class.

    Raises:
        UsageError: If the run has no masks.
        XPrunerError: If a file of the run is missing or damaged.
    """
    name = unique_names(run.class_names)[label]
    if label in run.unseen:
        return ClassCard(name, [], seen=False)
    layers = []
    for group in run.units:
        masks, kept = run.dense_masks[group.key].double(), set(run.plan.keep.get(group.key, range(group.size)))
        evidence = odds(masks[label])
        top = evidence.argsort(descending=True)[:SHOWN]
        others = (odds(masks[:, top]).sum(0) - evidence[top]) / (len(masks) - 1)
        held = evidence[sorted(kept)].sum() / evidence.sum()
        carried = [
            Carrier(unit, masks[label, unit].item(), times, unit in kept)
            for unit, times in zip(top.tolist(), (evidence[top] / others).tolist(), strict=True)
        ]
        layers.append(Layer(group.key, group.size, len(kept), held.item(), carried))
    return ClassCard(name, layers)
