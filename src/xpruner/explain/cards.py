"""Cards: what is known of one unit and of one class, from the masks, the plan and the images."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xpruner.errors import UsageError, unknown
from xpruner.explain.finished import FinishedRun
from xpruner.explain.without import Loss, losses_without, stand_ins, strengths
from xpruner.masks import odds, reduce_classes
from xpruner.plan import Plan, minimum
from xpruner.units import DEFAULT_KINDS, UnitGroup, Units

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
    """What closing units costs: percentage points of top-1 and nats of cross-entropy by class name."""

    units: list[int]
    top1: dict[str, float]
    nats: dict[str, float]


@dataclass(frozen=True)
class UnitCard:
    """One unit of the dense model.

    Attributes:
        name: ``<group key>:<index>``.
        serves: Mask value in the dense model by class name, the largest first.
        importance: The masks that decided, over the classes as one number, as the run's threshold reads them.
        threshold: Importance from which units of its group stayed.
        kept: Whether it stayed.
        stays_at: Smallest share of the dense model's cost at which it would stay, were all units ranked by importance.
        why: One sentence.
        alone: What closing it costs.
        together: What closing it costs together with the units that could best stand in for it.
        driven_by: Images in which it hands on most (mean square); none for kinds that no layer reads.
        missed_by: Images whose prediction changes most without it (Kullback-Leibler divergence, nats).
    """

    name: str
    serves: dict[str, float]
    importance: float
    threshold: float
    kept: bool
    stays_at: float
    why: str
    alone: Cost
    together: Cost
    driven_by: list[ImageOf]
    missed_by: list[ImageOf]


@dataclass(frozen=True)
class Layer:
    """What one group does for a class.

    Attributes:
        key: Of the group.
        units: How many it had.
        kept: How many stayed.
        share_kept: Share of the class's evidence in the dense model, the odds of its masks, that the units hold that
            stayed.
        carried_by: Index, mask value and whether it stayed, of the units that the class needs most.
    """

    key: str
    units: int
    kept: int
    share_kept: float
    carried_by: list[tuple[int, float, bool]]


@dataclass(frozen=True)
class ClassCard:
    """One class, layer by layer in the order of the forward pass."""

    name: str
    layers: list[Layer]


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


def find_class(name: str, class_names: Sequence[str]) -> int:
    """Returns the label of a class, which is given by name or by number.

    Raises:
        UsageError: If there is none; the nearest is named.
    """
    if name in class_names:
        return list(class_names).index(name)
    if name.isdigit() and int(name) < len(class_names):
        return int(name)
    raise unknown("class", name, class_names)


def unit_card(run: FinishedRun, key: str, index: int, count: int = 1000) -> UnitCard:
    """Returns the card of one unit; what closing it costs is measured on some of the run's images.

    Args:
        run: A run with masks.
        key: Of its group.
        index: Its number in the dense model.
        count: How many images at most.

    Raises:
        UsageError: If the run has no masks.
    """
    names, group = run.data.class_names, run.units[key]
    importance = {k: reduce_classes(m, run.config.thresholds.importance) for k, m in run.masks.items()}
    threshold = thresholds(importance, run.plan)[key]
    stays_at = cost_at(importance, run.units, importance[key][index].item(), run.plan.budget.get("resource", "macs"))
    numbers, images = run.some_images(count)
    precision, near, driven = run.config.precision, [], None
    if group.consumer is not None:
        near = stand_ins(run.dense, run.units, key, index, images, NEIGHBOURS, precision)
        driven = strengths(run.dense, group, index, images, precision)
    choices = [[index], [index, *near]]
    losses = losses_without(run.dense, run.units, [{key: c} for c in choices], images, len(names), precision)
    labelled = [(n, names[int(label)]) for n, label in zip(numbers, torch.cat([y for _, y in images]), strict=True)]
    kept = index in run.plan.keep.get(key, range(group.size))
    s = importance[key][index].item()
    return UnitCard(
        name=f"{key}:{index}",
        serves=_sorted(dict(zip(names, run.dense_masks[key][:, index].tolist(), strict=True))),
        importance=s,
        threshold=threshold,
        kept=kept,
        stays_at=stays_at,
        why=_why(group, run.plan, s, threshold, kept, stays_at),
        alone=_cost(choices[0], losses[0], names),
        together=_cost(choices[1], losses[1], names),
        driven_by=[] if driven is None else _largest(driven, labelled),
        missed_by=_largest(losses[0].change, labelled),
    )


def class_card(run: FinishedRun, label: int) -> ClassCard:
    """Returns the card of one class.

    Args:
        run: A run with masks.
        label: Of the class.

    Raises:
        UsageError: If the run has no masks.
    """
    layers = []
    for group in run.units:
        row = run.dense_masks[group.key][label]
        stayed = set(run.plan.keep.get(group.key, range(group.size)))
        evidence = odds(row.double())
        top = row.argsort(descending=True)[:SHOWN].tolist()
        held = evidence[sorted(stayed)].sum() / evidence.sum()
        carried = [(u, row[u].item(), u in stayed) for u in top]
        layers.append(Layer(group.key, group.size, len(stayed), held.item(), carried))
    return ClassCard(run.data.class_names[label], layers)


def thresholds(importance: Mapping[str, Tensor], plan: Plan) -> dict[str, float]:
    """Returns for each group the importance from which its units stayed: the least of those that did; inf for none."""
    return {
        key: min((s[i].item() for i in plan.keep.get(key, range(len(s)))), default=math.inf)
        for key, s in importance.items()
    }


def cost_at(importance: Mapping[str, Tensor], units: Units, level: float, resource: str = "macs") -> float:
    """Returns the share of the dense model's cost at which all units of at least this importance can stay."""
    keep = {key: (s >= level).nonzero().flatten().tolist() for key, s in importance.items()}
    return units.cost(keep, resource) / units.total(resource)


def _why(group: UnitGroup, plan: Plan, s: float, threshold: float, kept: bool, stays_at: float) -> str:
    floor = len(plan.keep.get(group.key, [])) <= minimum(group)
    if kept and floor and stays_at > _asked(plan):
        return f"It stays because {minimum(group)} {group.kind} of a module always stay, and none here counts more."
    if kept:
        return f"It stays: its importance of {s:.3g} is not below {threshold:.3g}, from which units of its layer stay."
    if s >= threshold:
        return (
            f"It went in an early round, before the others were looked at anew: its importance then was {s:.3g}, and "
            f"{threshold:.3g} is what stays now."
        )
    return (
        f"It went: its importance of {s:.3g} is below {threshold:.3g}, from which units of its layer stay; at about "
        f"{100 * stays_at:.0f} % of the dense model's cost it would have stayed."
    )


def _asked(plan: Plan) -> float:
    resource = plan.budget.get("resource", "macs")
    return plan.cost[f"{resource}_pruned"] / plan.cost[f"{resource}_dense"]


def _cost(without: list[int], loss: Loss, names: Sequence[str]) -> Cost:
    top1, nats = ({n: v for n, v in zip(names, values.tolist(), strict=True) if not math.isnan(v)}
                  for values in (loss.top1, loss.nats))  # fmt: skip
    return Cost(without, _sorted(top1), _sorted(nats))


def _sorted(values: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: -item[1]))


def _largest(values: Tensor, labelled: Sequence[tuple[int, str]]) -> list[ImageOf]:
    top, order = values.topk(min(SHOWN, len(values)))
    shown = [labelled[i] for i in order.tolist()]
    return [ImageOf(number, label, value) for (number, label), value in zip(shown, top.tolist(), strict=True)]
