"""Cards of units: why a unit was kept or pruned, which classes it serves, and what ablating it costs them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xpruner.calibration.moments import Batches
from xpruner.data.by_class import place_in_class
from xpruner.data.class_names import unique_names
from xpruner.errors import UsageError, unknown
from xpruner.explain.ablation import activation_strength, losses_without, stand_ins
from xpruner.explain.audit import Drop
from xpruner.explain.decision import Decision
from xpruner.run.finished import BATCH, FinishedRun
from xpruner.units import DEFAULT_KINDS, Units

NEIGHBOURS = 3
SHOWN = 5


@dataclass(frozen=True)
class ImageOf:
    """An image, by its number in the run's images, with what it is and a figure."""

    number: int
    label: str
    value: float


@dataclass(frozen=True)
class Cost:
    """What closing units costs, by class name, the most expensive first.

    Attributes:
        units: That are closed.
        top1: Percentage points of top-1, with a 95 % interval.
        nats: Mean rise of the cross-entropy.
        noise: Whether every interval holds 0, so that none of the losses is more than chance.
    """

    units: list[int]
    top1: dict[str, Drop]
    nats: dict[str, float]
    noise: bool


@dataclass(frozen=True)
class UnitCard:
    """One unit of the dense model.

    Attributes:
        name: ``<group key>:<index>``.
        serves: Mask value in the dense model by class name, the largest first, but for classes that the masks have seen
            no image of.
        decided: Mask value of these classes in the network that was left when the plan last looked at the unit, on the
            scale of the last look.
        images: How many of each class were looked at, by class name.
        importance: What decided: the latter masks over the classes as one number, as the plan read them.
        threshold: Least importance of a unit of its group that stayed; None where none did.
        kept: Whether it stayed.
        stays_at: Smallest share of the dense model's cost at which it would stay, were units to go, or to come back,
            in the order of their importance; None where importance does not tell.
        why: What decided, in words.
        alone: What closing it costs.
        together: What closing it costs together with the units that could best stand in for it.
        driven_by: Images in which it hands on most (mean square); none for kinds that no layer reads.
        missed_by: Images whose prediction changes most without it (Kullback-Leibler divergence, nats).
    """

    name: str
    serves: dict[str, float]
    decided: dict[str, float]
    images: dict[str, int]
    importance: float
    threshold: float | None
    kept: bool
    stays_at: float | None
    why: str
    alone: Cost
    together: Cost
    driven_by: list[ImageOf]
    missed_by: list[ImageOf]


def find_unit(name: str, units: Units) -> tuple[str, int]:
    """Returns the group's key and the index of a unit.

    Args:
        name: ``blocks.3.attn:head:1``, or ``blocks.3.attn:1`` for a head or a hidden unit.
        units: The dense model's groups.

    Raises:
        UsageError: If there is none; the nearest is named.
    """
    match = re.fullmatch(r"(.+?)(?::(head|hidden|qk|v|embed|block))?:(\d+)", name)
    if match is None:
        raise UsageError(f"{name!r} names no unit; write its module and number, such as {units.groups[0].module}:0.")
    module, kind, index = match[1], match[2], int(match[3])
    known = [group.key for group in units]
    key = f"{module}:{kind}" if kind else next((f"{module}:{k}" for k in DEFAULT_KINDS if f"{module}:{k}" in known), "")
    if key not in known:
        raise unknown("unit group", key or module, known)
    if index >= units[key].size:
        raise UsageError(f"{key} has units 0 to {units[key].size - 1}, and no {index}; choose one of them.")
    return key, index


def unit_card(run: FinishedRun, key: str, index: int, count: int = 1000) -> UnitCard:
    """Returns the card of one unit; what closing it costs is measured on some of the run's images.

    Args:
        run: A run with masks.
        key: Of its group.
        index: Its number in the dense model.
        count: How many images at most.

    Raises:
        UsageError: If the run has no masks, or its images are not where they were.
        XPrunerError: If a file of the run is missing or damaged.
    """
    names, group = unique_names(run.class_names), run.units[key]
    decision = Decision(run, group, index)
    numbers, images = run.some_images(count)
    precision, near, driven = run.config.precision, [], None
    if group.consumer is not None:
        near = stand_ins(run.dense, run.units, key, index, images, NEIGHBOURS, precision)
        driven = activation_strength(run.dense, group, index, images, precision)
    labels = torch.cat([y for _, y in images])
    labelled = [(number, names[label]) for number, label in zip(numbers, labels.tolist(), strict=True)]
    choices = [[index], [index, *near]]
    alone, together = _image_by_image(run, [{key: choice} for choice in choices], images)
    return UnitCard(
        name=f"{key}:{index}",
        serves=_largest_first(run, run.dense_masks[key][:, index]),
        decided=_largest_first(run, run.masks[key][:, index]),
        images={names[label]: n for label, n in enumerate(torch.bincount(labels).tolist()) if n},
        importance=decision.importance,
        threshold=decision.threshold,
        kept=decision.kept,
        stays_at=decision.stays_at,
        why=decision.why,
        alone=_cost(choices[0], alone, labels, names),
        together=_cost(choices[1], together, labels, names),
        driven_by=[] if driven is None else _largest(driven, labelled),
        missed_by=_largest(alone.change, labelled),
    )


@dataclass(frozen=True)
class _Images:
    """What each image loses: points of top-1 (-100, 0 or 100), nats, and the change of its prediction, (images,)."""

    top1: Tensor
    nats: Tensor
    change: Tensor


def _image_by_image(run: FinishedRun, choices: Sequence[Mapping[str, Sequence[int]]], images: Batches) -> list[_Images]:
    """Returns for each choice what the images lose without these units; a class's mean over one image is the image's"""
    found: list[list[_Images]] = [[] for _ in choices]
    order = []
    for numbers, batch in _each_class_once(images):
        order.append(numbers)
        losses = losses_without(
            run.dense, run.units, choices, [batch], len(run.class_names), run.config.precision
        )  # fmt: skip
        for each, loss in zip(found, losses, strict=True):
            each.append(_Images(loss.top1[batch[1]], loss.nats[batch[1]], loss.change))
    back = torch.cat(order).argsort()
    return [
        _Images(*(torch.cat([getattr(part, name) for part in parts])[back] for name in ("top1", "nats", "change")))
        for parts in found
    ]


def _each_class_once(images: Batches) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Yields batches in which no class comes twice, each behind the places that its images had."""
    pixels, labels = [image for batch, _ in images for image in batch], torch.cat([y for _, y in images])
    places = place_in_class(labels)
    for place in range(int(places.max()) + 1):
        for numbers in (places == place).nonzero().flatten().split(BATCH):
            yield numbers, (torch.stack([pixels[i] for i in numbers.tolist()]), labels[numbers])


def _cost(without: list[int], seen: _Images, labels: Tensor, names: Sequence[str]) -> Cost:
    top1, nats = {}, {}
    for label in labels.unique().tolist():
        own = seen.top1[labels == label]
        top1[names[label]] = Drop.of(int((own > 0).sum()), int((own < 0).sum()), len(own))
        nats[names[label]] = seen.nats[labels == label].mean().item()
    noise = all(drop.low <= 0 <= drop.high for drop in top1.values())
    ordered = sorted(top1, key=lambda name: -top1[name].value)
    return Cost(without, {name: top1[name] for name in ordered}, _sorted(nats), noise)


def _largest_first(run: FinishedRun, values: Tensor) -> dict[str, float]:
    """Returns (classes,) values by name, but for classes that the masks have seen no image of."""
    names = enumerate(unique_names(run.class_names))
    return _sorted({name: values[label].item() for label, name in names if label not in run.unseen})


def _sorted(values: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))


def _largest(values: Tensor, labelled: Sequence[tuple[int, str]]) -> list[ImageOf]:
    top, order = values.topk(min(SHOWN, len(values)))
    shown = [labelled[i] for i in order.tolist()]
    return [ImageOf(number, label, value) for (number, label), value in zip(shown, top.tolist(), strict=True)]
