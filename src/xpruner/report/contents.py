"""The contents of the page as plain data: everything is computed here, and nothing is laid out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from xpruner import __version__
from xpruner.data.class_names import unique_names
from xpruner.explain.class_cards import class_card
from xpruner.explain.decision import lowest_kept
from xpruner.maps import find_map
from xpruner.methods._outcome_files import DENSE_MASKS, MASKS
from xpruner.methods.xpruner.guard import GuardFigures
from xpruner.models.checkpoint import read_structure
from xpruner.report.changes import Changes, changes
from xpruner.report.metrics import Result, finished
from xpruner.report.pairs import Maps, check_numbers, choose, explained
from xpruner.report.tables import MaskTable, class_rows, mask_table, width
from xpruner.run.finished import FinishedRun
from xpruner.run.tracking import Curve, read_history


@dataclass(frozen=True)
class LayerRates:
    """One group, and what of it is kept.

    Attributes:
        key: Of the group.
        kind: Of its units.
        units: How many it had.
        kept: How many are kept.
        lowest: The lowest importance of a kept unit; None where none is kept, or no masks were learned.
        above: How many were pruned although their importance is as high or higher.
    """

    key: str
    kind: str
    units: int
    kept: int
    lowest: float | None
    above: int = 0


@dataclass(frozen=True)
class Evidence:
    """Share of each class's evidence that is kept, percent: the classes of each row by the keys of the groups."""

    rows: list[list[str]]
    keys: list[str]
    percent: np.ndarray


@dataclass(frozen=True)
class Masks:
    """How much units contribute to classes in the dense model.

    Attributes:
        file: Of the run, that the masks are from: those of the dense model, or the deciding masks where it has no
            others.
        evidence: Of all layers.
        tables: One for each group.
        unseen: Names of the classes that the masks have seen no image of; they have no rows.
    """

    file: str
    evidence: Evidence
    tables: list[MaskTable]
    unseen: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Contents:
    """Everything on the page.

    Attributes:
        model: Name of the dense model's architecture.
        method: That made the plan.
        result: Accuracy, cost and latency.
        images: How many images accuracy was measured on.
        held_out: Whether those are held-out training images; else test images.
        layers: The groups in the order of the forward pass.
        importance: How the masks over the classes became one number; None without masks.
        limit: Points of top-1 that no class was to lose before training; None without a guard.
        guard: The result of the guard; None also where the run did not store it.
        masks: None without.
        changes: Class by class, of images that both models predict again.
        maps: Of a few of those images.
        curves: Of every training loop.
        config: The configuration as YAML.
        versions: Of what the figures depend on.
    """

    model: str
    method: str
    result: Result
    images: int
    held_out: bool
    layers: list[LayerRates]
    importance: str | None
    limit: float | None
    guard: GuardFigures | None
    masks: Masks | None
    changes: Changes
    maps: Maps
    curves: list[Curve]
    config: str
    versions: dict[str, str]


def gather(run: FinishedRun, maps_method: str = "relevance", images: Sequence[int] | None = None) -> Contents:
    """Returns the contents of the page about a run; both models predict all of its images.

    Args:
        run: A finished run.
        maps_method: One of :func:`xpruner.maps.list_maps`.
        images: Numbers of the images whose maps are shown; absent, some that both models get right and some that were
            lost.

    Raises:
        UsageError: If the run is not finished, the maps' method is unknown, or there is no such image.
        XPrunerError: If a file is damaged.
    """
    metrics = finished(run.folder, run.metrics)
    find_map(maps_method)  # fail early on an unknown name
    check_numbers(run, images or [])
    names = unique_names(run.class_names)
    predictions = _predictions(run)
    found = changes(run, predictions, names)
    learned = (run.folder / MASKS).exists()
    return Contents(
        model=read_structure(run.folder / "dense").architecture,
        method=run.config.method,
        result=Result.of(metrics, run.plan.budget.get("resource", "macs")),
        images=len(predictions[0]),
        held_out=run.data.val is not None,
        layers=_layers(run, run.importance if learned else {}),
        importance=run.importance_kind if learned else None,
        limit=run.config.max_class_drop,
        guard=run.guard,
        masks=_masks(run, names) if learned else None,
        changes=found,
        maps=explained(run, images or _examples(predictions, found), predictions, names, maps_method),
        curves=read_history(run.folder),
        config=(run.folder / "config.yaml").read_text(encoding="utf-8"),
        versions={"xpruner": __version__, **{name: str(v) for name, v in metrics.get("environment", {}).items()}},
    )


def _predictions(run: FinishedRun) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the labels and the classes that the dense and the pruned model predict, each (images,)."""
    (dense, labels), (pruned, _) = (run.predictions_of(model) for model in (run.dense, run.pruned))
    return labels, dense, pruned


def _examples(predictions: tuple[Tensor, Tensor, Tensor], found: Changes) -> list[int]:
    labels, dense, pruned = predictions
    right = ((dense == labels) & (pruned == labels)).nonzero().flatten().tolist()
    return choose(right, [image.number for image in found.lost])


def _layers(run: FinishedRun, importance: Mapping[str, Tensor]) -> list[LayerRates]:
    lowest = lowest_kept(importance, run.plan)
    layers = []
    for group in run.units:
        kept, above = len(run.plan.keep.get(group.key, range(group.size))), 0
        if group.key in lowest:
            above = int((importance[group.key] >= lowest[group.key]).sum()) - kept
        layers.append(LayerRates(group.key, group.kind, group.size, kept, lowest.get(group.key), above))
    return layers


def _masks(run: FinishedRun, names: Sequence[str]) -> Masks:
    seen = [label for label in range(len(names)) if label not in run.unseen]
    shown = [names[label] for label in seen]
    masks = {key: m[seen].float().numpy() for key, m in run.dense_masks.items()}
    rows = class_rows(masks)
    most = width([group.size for group in run.units], len(rows))
    tables = [
        mask_table(g.key, masks[g.key], list(run.plan.keep.get(g.key, range(g.size))), rows, shown, most)
        for g in run.units
    ]
    file = DENSE_MASKS if (run.folder / DENSE_MASKS).exists() else MASKS
    return Masks(file, _evidence(run, seen, rows), tables, [names[label] for label in sorted(run.unseen)])


def _evidence(run: FinishedRun, labels: Sequence[int], rows: Sequence[np.ndarray]) -> Evidence:
    cards = [class_card(run, label) for label in labels]
    shares = torch.tensor([[layer.share_kept for layer in card.layers] for card in cards]).numpy()
    percent = (100 * np.stack([shares[row].mean(0) for row in rows])).round().astype(np.uint8)
    return Evidence([[cards[place].name for place in row] for row in rows], [g.key for g in run.units], percent)
