"""What the page says, as plain data: everything is computed here, and nothing is laid out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xpruner import __version__
from xpruner.checkpoint import read_structure
from xpruner.data import InputSpec
from xpruner.errors import UsageError, XPrunerError
from xpruner.explain.audit import Audit, audit
from xpruner.explain.cards import class_card, thresholds
from xpruner.explain.finished import BATCH, FinishedRun
from xpruner.explain.pictures import data_uri, pixels_of
from xpruner.masks import reduce_classes
from xpruner.methods.base import MASKS
from xpruner.report.pairs import Pair, choose, explained
from xpruner.report.tables import MaskTable, class_rows, mask_table, width
from xpruner.tracking import Curve, read_history
from xpruner.training import predict

STAGES = {"dense": "dense", "pruned": "pruned", "compensated": "compensated", "finetuned": "fine-tuned"}
MOST_LOST = 12
NORMAL = 1.959964
"""Of the normal distribution, the quantile of a 95 % interval."""


@dataclass(frozen=True)
class Stage:
    """Figures of the model after one stage; top-1 from 0 to 1."""

    name: str
    top1: float
    macs: int
    params: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds that both models need for a batch."""

    batch: int
    dense: float
    pruned: float


@dataclass(frozen=True)
class LayerRates:
    """One group: how many of its units stayed, and from which importance on, where masks were learned."""

    key: str
    kind: str
    units: int
    kept: int
    threshold: float | None


@dataclass(frozen=True)
class Evidence:
    """Share of each class's evidence that stayed, percent: the classes of each row by the keys of the groups."""

    rows: list[list[str]]
    keys: list[str]
    percent: np.ndarray


@dataclass(frozen=True)
class Drop:
    """Percentage points of top-1 that were lost, with a 95 % interval.

    The interval is that of Agresti and Min (2005, section 3) for matched proportions: half an image is added to each of
    the four outcomes.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, lost: int, gained: int, images: int) -> "Drop":
        """Returns the drop of a model that gets ``lost`` of the images newly wrong and ``gained`` newly right."""
        n = images + 2
        middle = (lost - gained) / n
        half = NORMAL * ((lost + gained + 1) - (lost - gained) ** 2 / n) ** 0.5 / n
        return cls(100 * (lost - gained) / images, 100 * max(middle - half, -1), 100 * min(middle + half, 1))


@dataclass(frozen=True)
class LostImage:
    """An image that the dense model gets right and the pruned one takes for another class."""

    number: int
    truth: str
    taken_for: str
    picture: str


@dataclass(frozen=True)
class Contents:
    """Everything on the page.

    Attributes:
        model: Name of the dense model's architecture.
        method: That made the plan.
        headline: The result in one line.
        stages: In the order of the run.
        latency: By batch size; empty, where it was not measured.
        images: How many images accuracy was measured on.
        held_out: Whether those are held-out training images; else test images.
        layers: The groups in the order of the forward pass.
        importance: How the masks over the classes became one number; None without masks.
        evidence: Of all layers; None without masks.
        masks: One table for each group; empty without masks.
        audit: Class by class, of images that both models were asked about again.
        drops: Of the classes of the audit, in their order.
        drop: Of all images.
        lost: Some of the images that were lost.
        maps_method: That made the explanation maps.
        pairs: Images with the maps of both models.
        without_maps: Why there are none; empty, where there are.
        curves: Of every loop that learned something.
        config: The configuration as YAML.
        versions: Of what the figures depend on.
    """

    model: str
    method: str
    headline: str
    stages: list[Stage]
    latency: list[Latency]
    images: int
    held_out: bool
    layers: list[LayerRates]
    importance: str | None
    evidence: Evidence | None
    masks: list[MaskTable]
    audit: Audit
    drops: list[Drop]
    drop: Drop
    lost: list[LostImage]
    maps_method: str
    pairs: list[Pair]
    without_maps: str
    curves: list[Curve]
    config: str
    versions: dict[str, str]


def gather(run: FinishedRun, maps_method: str = "relevance") -> Contents:
    """Returns what the page says about a run; both models are asked about all of its images.

    Args:
        run: A finished run.
        maps_method: One of :func:`xpruner.explain.maps.map_methods`.

    Raises:
        UsageError: If the run is not finished, or the maps' method is unknown.
        XPrunerError: If a file is damaged.
    """
    metrics = read_metrics(run)
    stages = [Stage(title, *(metrics[key][f] for f in ("top1", "macs", "params"))) for key, title in STAGES.items()]
    latency = latency_of(metrics)
    names = different(run.data.class_names)
    masks = run.masks if (run.folder / MASKS).exists() else {}
    dense, pruned, labels = _answers(run)
    audited = audit(dense, pruned, labels, names)
    lost = lost_first(audited)
    right = ((dense == labels) & (pruned == labels)).nonzero().flatten().tolist()
    pairs, without_maps = explained(run, choose(right, lost), (labels, dense, pruned), names, maps_method)
    evidence, tables = _tables(run, {key: m.float().numpy() for key, m in masks.items()}, names)
    return Contents(
        model=read_structure(run.folder / "dense").architecture,
        method=run.config.method,
        headline=headline(stages, latency, run.plan.budget.get("resource", "macs")),
        stages=stages,
        latency=latency,
        images=len(labels),
        held_out=run.data.val is not None,
        layers=_layers(run, masks),
        importance=run.config.thresholds.importance if masks else None,
        evidence=evidence,
        masks=tables,
        audit=audited,
        drops=[Drop.of(len(c.lost), len(c.gained), c.images) for c in audited.classes],
        drop=Drop.of(len(lost), sum(len(c.gained) for c in audited.classes), len(labels)),
        lost=[_lost_image(run, n, names[int(labels[n])], names[int(pruned[n])]) for n in lost[:MOST_LOST]],
        maps_method=maps_method,
        pairs=pairs,
        without_maps=without_maps,
        curves=read_history(run.folder),
        config=(run.folder / "config.yaml").read_text(encoding="utf-8"),
        versions={"xpruner": __version__, **{name: str(v) for name, v in metrics.get("environment", {}).items()}},
    )


def read_metrics(run: FinishedRun) -> dict[str, Any]:
    """Returns the figures of a run's stages.

    Raises:
        UsageError: If one of the stages is not finished.
        XPrunerError: If the file is damaged.
    """
    path = run.folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise XPrunerError(
            f"{path} cannot be read ({error}); delete it, and the same `xpruner prune` writes it."
        ) from error
    if not STAGES.keys() <= metrics.keys():
        raise UsageError(f"The run in {run.folder} is not finished; the same `xpruner prune` command finishes it.")
    return metrics


def latency_of(metrics: Mapping[str, Any]) -> list[Latency]:
    """Returns the latency of both models by batch size, where a run has measured it."""
    measured = metrics.get("latency", {"dense": {}})
    return [Latency(int(batch), ms, measured["pruned"][batch]) for batch, ms in measured["dense"].items()]


def headline(stages: list[Stage], latency: list[Latency], resource: str = "macs") -> str:
    """Returns the result in one line: the cost that was asked for, the speed at the largest batch, and top-1."""
    dense, pruned = stages[0], stages[-1]
    left, name = (
        (pruned.params / dense.params, "parameters") if resource == "params" else (pruned.macs / dense.macs, "MACs")
    )
    parts = [f"{100 * left:.1f} % of the {name}"]
    if latency:
        largest = max(latency, key=lambda measured: measured.batch)
        parts.append(f"{largest.dense / largest.pruned:.2f}× as fast at batch {largest.batch}")
    return ", ".join([*parts, f"{100 * dense.top1:.1f} → {100 * pruned.top1:.1f} % top-1"])


def different(names: list[str]) -> list[str]:
    """Returns names that are all different: those that several classes share get the number of the class."""
    return [f"{name} ({label})" if names.count(name) > 1 else name for label, name in enumerate(names)]


def lost_first(audited: Audit) -> list[int]:
    """Returns the images that were lost, one of each class in turn, the class that lost most first."""
    queues = [c.lost for c in sorted(audited.classes, key=lambda c: -c.drop)]
    longest = max(map(len, queues))
    return [queue[place] for place in range(longest) for queue in queues if place < len(queue)]


def _answers(run: FinishedRun) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what the dense model says, what the pruned one says, and the labels, each (images,)."""
    config = run.config
    loading: dict[str, Any] = {"batch_size": BATCH, "workers": config.data.workers, "precision": config.precision}
    dense, labels = predict(run.dense, run.images, **loading)
    return dense, predict(run.pruned, run.images, **loading)[0], labels


def _layers(run: FinishedRun, masks: Mapping[str, Tensor]) -> list[LayerRates]:
    importance = {key: reduce_classes(m, run.config.thresholds.importance) for key, m in masks.items()}
    from_which = {key: t for key, t in thresholds(importance, run.plan).items() if t < float("inf")}
    kept = {group.key: run.plan.keep.get(group.key, range(group.size)) for group in run.units}
    return [LayerRates(g.key, g.kind, g.size, len(kept[g.key]), from_which.get(g.key)) for g in run.units]


def _tables(
    run: FinishedRun, masks: Mapping[str, np.ndarray], names: list[str]
) -> tuple[Evidence | None, list[MaskTable]]:
    if not masks:
        return None, []
    rows = class_rows(masks)
    most = width([group.size for group in run.units], len(rows))
    tables = [
        mask_table(g.key, masks[g.key], list(run.plan.keep.get(g.key, range(g.size))), rows, names, most)
        for g in run.units
    ]
    cards = [class_card(run, label) for label in range(len(names))]
    shares = torch.tensor([[layer.share_kept for layer in card.layers] for card in cards]).numpy()
    percent = (100 * np.stack([shares[row].mean(0) for row in rows])).round().astype(np.uint8)
    return Evidence([[names[c] for c in row] for row in rows], [g.key for g in run.units], percent), tables


def _lost_image(run: FinishedRun, number: int, truth: str, taken_for: str) -> LostImage:
    return LostImage(number, truth, taken_for, data_uri(pixels_of(run.images[number][0], InputSpec.of(run.dense))))
