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
from xpruner.explain.ablation import ablation_effects, activation_strength, redundant_units
from xpruner.explain.audit import Drop
from xpruner.explain.decision import Decision
from xpruner.run.finished import BATCH, FinishedRun
from xpruner.units import DEFAULT_KINDS, Units

NEIGHBOURS = 3
SHOWN = 5


@dataclass(frozen=True)
class RankedImage:
    """An image, by its number in the run's images, with what it is and a figure."""

    number: int
    label: str
    value: float


@dataclass(frozen=True)
class AblationCost:
    """What ablating units costs, by class name, the most expensive first.

    Attributes:
        units: That are ablated.
        top1: Percentage points of top-1, with a 95 % interval.
        loss: Mean rise of the cross-entropy.
        noise: Whether every interval holds 0, so that none of the losses is more than chance.
    """

    units: list[int]
    top1: dict[str, Drop]
    loss: dict[str, float]
    noise: bool


@dataclass(frozen=True)
class UnitCard:
    """One unit of the dense model.

    Attributes:
        name: ``<group key>:<index>``.
        serves: Mask value in the dense model by class name, the largest first, but for classes that the masks have seen
            no image of.
        decided: The deciding mask value of these classes: the last estimate of the search, that of the network as
            pruned by then, on the scale of the last round.
        images: How many of each class were used, by class name.
        importance: The deciding masks over the classes as one number, as the plan read them.
        lowest_kept: Lowest importance of a kept unit of its group; None where none was kept.
        kept: Whether it was kept.
        kept_at: Smallest share of the dense model's cost at which it would be kept, were units pruned, or restored, in
            the order of their importance; None where importance does not decide.
        why: Why it was kept or pruned, in words.
        alone: What ablating it costs.
        together: What ablating it costs together with the units that are most redundant to it.
        activated_by: Images in which its output is largest (mean square); none for kinds without a consumer.
        missed_by: Images whose prediction changes most when it is ablated (Kullback-Leibler divergence, nats).
    """

    name: str
    serves: dict[str, float]
    decided: dict[str, float]
    images: dict[str, int]
    importance: float
    lowest_kept: float | None
    kept: bool
    kept_at: float | None
    why: str
    alone: AblationCost
    together: AblationCost
    activated_by: list[RankedImage]
    missed_by: list[RankedImage]


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
    """Returns the card of one unit; what ablating it costs is measured on some of the run's images.

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
    precision, redundant, activation = run.config.precision, [], None
    if group.consumer is not None:
        redundant = redundant_units(run.dense, run.units, key, index, images, NEIGHBOURS, precision)
        activation = activation_strength(run.dense, group, index, images, precision)
    labels = torch.cat([y for _, y in images])
    labelled = [(number, names[label]) for number, label in zip(numbers, labels.tolist(), strict=True)]
    choices = [[index], [index, *redundant]]
    alone, together = _image_by_image(run, [{key: choice} for choice in choices], images)
    return UnitCard(
        name=f"{key}:{index}",
        serves=_largest_first(run, run.dense_masks[key][:, index]),
        decided=_largest_first(run, run.masks[key][:, index]),
        images={names[label]: n for label, n in enumerate(torch.bincount(labels).tolist()) if n},
        importance=decision.importance,
        lowest_kept=decision.lowest_kept,
        kept=decision.kept,
        kept_at=decision.kept_at,
        why=decision.why,
        alone=_cost(choices[0], alone, labels, names),
        together=_cost(choices[1], together, labels, names),
        activated_by=[] if activation is None else _largest(activation, labelled),
        missed_by=_largest(alone.change, labelled),
    )


@dataclass(frozen=True)
class _Images:
    """What ablation does to each image, (images,): points of top-1 lost (-100, 0 or 100), rise of the loss, change."""

    top1: Tensor
    loss: Tensor
    change: Tensor


def _image_by_image(run: FinishedRun, choices: Sequence[Mapping[str, Sequence[int]]], images: Batches) -> list[_Images]:
    """Returns for each choice what ablating it does to each image: a class's mean over one image is the image's."""
    found: list[list[_Images]] = [[] for _ in choices]
    order = []
    for numbers, batch in _each_class_once(images):
        order.append(numbers)
        effects = ablation_effects(
            run.dense, run.units, choices, [batch], len(run.class_names), run.config.precision
        )  # fmt: skip
        for each, effect in zip(found, effects, strict=True):
            each.append(_Images(effect.top1[batch[1]], effect.loss[batch[1]], effect.change))
    back = torch.cat(order).argsort()
    return [
        _Images(*(torch.cat([getattr(part, name) for part in parts])[back] for name in ("top1", "loss", "change")))
        for parts in found
    ]


def _each_class_once(images: Batches) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Yields batches in which no class comes twice, each behind the places that its images had."""
    pixels, labels = [image for batch, _ in images for image in batch], torch.cat([y for _, y in images])
    places = place_in_class(labels)
    for place in range(int(places.max()) + 1):
        for numbers in (places == place).nonzero().flatten().split(BATCH):
            yield numbers, (torch.stack([pixels[i] for i in numbers.tolist()]), labels[numbers])


def _cost(ablated: list[int], seen: _Images, labels: Tensor, names: Sequence[str]) -> AblationCost:
    top1, loss = {}, {}
    for label in labels.unique().tolist():
        own = seen.top1[labels == label]
        top1[names[label]] = Drop.of(int((own > 0).sum()), int((own < 0).sum()), len(own))
        loss[names[label]] = seen.loss[labels == label].mean().item()
    noise = all(drop.low <= 0 <= drop.high for drop in top1.values())
    ordered = sorted(top1, key=lambda name: -top1[name].value)
    return AblationCost(ablated, {name: top1[name] for name in ordered}, _sorted(loss), noise)


def _largest_first(run: FinishedRun, values: Tensor) -> dict[str, float]:
    """Returns (classes,) values by name, but for classes that the masks have seen no image of."""
    names = enumerate(unique_names(run.class_names))
    return _sorted({name: values[label].item() for label, name in names if label not in run.unseen})


def _sorted(values: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))


def _largest(values: Tensor, labelled: Sequence[tuple[int, str]]) -> list[RankedImage]:
    top, order = values.topk(min(SHOWN, len(values)))
    shown = [labelled[i] for i in order.tolist()]
    return [RankedImage(number, label, value) for (number, label), value in zip(shown, top.tolist(), strict=True)]
