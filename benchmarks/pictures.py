"""Draws the pictures of README.md: ``python benchmarks/pictures.py [RUN]``.

The first shows the comparison on CIFAR-10 and is drawn from the committed results. The second shows one finished run,
an image before the dense and the pruned model and the masks of one layer, and is drawn where a run is given:

    xpruner prune --config benchmarks/explained.yaml --budget 0.5 --finetune.steps 120 --output runs/half
    python benchmarks/pictures.py runs/half
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from xpruner.data import InputSpec
from xpruner.explain.pictures import heated, pixels_of
from xpruner.maps import saliency
from xpruner.run.finished import FinishedRun, open_run

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "compare" / "cifar10_deit_tiny"
PICTURES = ROOT / "docs" / "pictures"
OWN, CONTROL, MUTED, INK = "#c2410c", "#1d4ed8", "#a3a3a3", "#262626"
COLOURS = {
    "X-Pruner default": OWN,
    "X-Pruner paper": OWN,
    "X-Pruner global rank": OWN,
    "X-Pruner default, heads and hidden": OWN,
    "Taylor, global, finer units": CONTROL,
}
VARIANTS = ("tokens weighed", "mixtures")
"""Rows that differ from others in their compensation or fine-tuning alone."""
LEAST_GAP = 0.72
"""Between two labels, in points of top-1."""

Curve = list[tuple[float, float]]
"""Shares of the dense model's MACs, and the mean top-1 over the seeds in percent."""


def curves(folder: Path) -> dict[str, Curve]:
    """Returns the fine-tuned accuracy of every row that has results at several budgets, and of the dense model."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        last, dense = result["stages"]["finetuned"], result["stages"]["dense"]
        point = last["macs"] / dense["macs"], 100 * last["top1"]
        found[result["label"]][str(result["config"]["budget"])].append(point)
    rows = {
        label: sorted((mean(x for x, _ in points), mean(y for _, y in points)) for points in budgets.values())
        for label, budgets in found.items()
        if not any(variant in label for variant in VARIANTS)
    }
    return {label: curve for label, curve in rows.items() if len(curve) > 1 or label == "dense"}


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Returns heights, given from the highest to the lowest, moved apart so that no two are closer than a gap."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _lowest(groups[-2], gap) - gap < _highest(groups[-1], gap):
            last = groups.pop()
            groups[-1] += last
    return [_highest(group, gap) - gap * place for group in groups for place in range(len(group))]


def _highest(group: Sequence[float], gap: float) -> float:
    return mean(group) + gap * (len(group) - 1) / 2


def _lowest(group: Sequence[float], gap: float) -> float:
    return mean(group) - gap * (len(group) - 1) / 2


def draw_accuracy(rows: dict[str, Curve], path: Path) -> None:
    """Draws accuracy against MACs, every method named at its smallest budget."""
    rows = dict(rows)
    dense = rows.pop("dense")[0][1]
    figure, axes = plt.subplots(figsize=(8, 6.6))
    axes.axhline(dense, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(0.7, dense + 0.35, f"dense model with the same fine-tuning, {dense:.1f} %", ha="right", color=INK)
    labels = sorted(rows, key=lambda label: -rows[label][0][1])
    heights = spread([rows[label][0][1] for label in labels], LEAST_GAP)
    for label, height in zip(labels, heights, strict=True):
        _draw_curve(axes, label, rows[label], height)
    axes.set(xlim=(0.165, 0.71), ylim=(68.4, 93.4), xlabel="MACs, share of the dense model")
    axes.set_xticks([0.3, 0.5, 0.7], ["30 %", "50 %", "70 %"])
    axes.set_title("Top-1 on CIFAR-10 after pruning DeiT-tiny and 600 updates of fine-tuning, %", loc="left")
    axes.yaxis.tick_right()
    axes.tick_params(length=0)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout(pad=0.6)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_curve(axes: Axes, label: str, curve: Curve, height: float) -> None:
    colour = COLOURS.get(label, MUTED)
    strong = label == "X-Pruner default"
    front = 3 if strong else 2 if label in COLOURS else 1
    x, y = zip(*curve, strict=True)
    axes.plot(x, y, color=colour, linewidth=2.6 if strong else 1.2, marker="o", markersize=6 if strong else 3.5,
              zorder=front + 2)  # fmt: skip
    axes.plot([0.274, 0.296], [height, y[0]], color=colour, linewidth=0.5, zorder=front)
    weight = "bold" if strong else "normal"
    text = colour if label in COLOURS else "#525252"
    axes.text(0.271, height, f"{label}  {y[0]:.1f}", ha="right", va="center", color=text, weight=weight, fontsize=9)


def draw_run(run: FinishedRun, number: int | None, layer: str, path: Path) -> None:
    """Draws an image before both models above the masks of one layer.

    Args:
        run: A finished run.
        number: Of the image; absent, the first that both models get right.
        layer: Key of the group whose masks are shown.
        path: Of the PNG.
    """
    number = _right_in_both(run) if number is None else number
    image, label = run.images[number]
    spec, name = InputSpec.of(run.dense), run.class_names[label]
    pixels = pixels_of(image, spec)
    share = 100 * run.plan.share("macs")
    tiles = {f"image ({name})": pixels}
    for title, model in (("dense model", run.dense), (f"pruned to {share:.0f} % of the MACs", run.pruned)):
        found = saliency(model, image[None], "relevance", torch.tensor([label]))[0]
        tiles[title] = heated(pixels, found.numpy())
    figure = plt.figure(figsize=(8, 5.4))
    figure.text(0.115, 0.955, f"Where each model looks for “{name}”", weight="bold", fontsize=12)
    figure.text(0.115, 0.425, "What each unit of a layer contributes to each class", weight="bold", fontsize=12)
    above = figure.add_gridspec(1, 3, left=0.115, right=0.94, top=0.895, bottom=0.5, wspace=0.05)
    for column, (title, tile) in enumerate(tiles.items()):
        axes = figure.add_subplot(above[column])
        axes.imshow(tile, interpolation="bicubic")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    below = figure.add_gridspec(
        1, 2, left=0.115, right=0.94, top=0.365, bottom=0.065, width_ratios=(60, 1), wspace=0.03
    )
    _draw_masks(figure.add_subplot(below[0]), figure.add_subplot(below[1]), run, layer)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


def _draw_masks(axes: Axes, scale: Axes, run: FinishedRun, layer: str) -> None:
    masks, kept = run.masks[layer], run.plan.gates()[layer] > 0
    order = torch.cat([_by_class(masks, kept), _by_importance(run.importance[layer], ~kept)])
    shown = axes.imshow(masks[:, order], aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    boundary = int(kept.sum())
    axes.axvline(boundary - 0.5, color="white", linewidth=2)
    parts = (
        (0, boundary, "kept, by class"),
        (boundary, len(kept), "pruned, by importance"),
    )
    for start, stop, text in parts:
        axes.text((start + stop) / 2, -0.8, f"{stop - start} {text}", ha="center", fontsize=10)
    axes.set_yticks(range(len(run.class_names)), run.class_names, fontsize=9.5)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_xlabel(f"the {len(kept)} units of {layer}", labelpad=6)
    bar = axes.figure.colorbar(shown, cax=scale, ticks=[0, 1])
    bar.outline.set_visible(False)


def _by_class(masks: Tensor, chosen: Tensor) -> Tensor:
    """Returns the numbers of the chosen units by the class whose mask stands out most from that class's others."""
    numbers = chosen.nonzero().flatten()
    logits = masks[:, numbers].logit(eps=1e-6)
    standing_out, favourite = (logits - logits.mean(1, keepdim=True)).max(0)
    return numbers[torch.from_numpy(np.lexsort((-standing_out.numpy(), favourite.numpy())))]


def _by_importance(importance: Tensor, chosen: Tensor) -> Tensor:
    numbers = chosen.nonzero().flatten()
    return numbers[importance[numbers].argsort(descending=True)]


def _right_in_both(run: FinishedRun) -> int:
    numbers, batches = run.some_images(100)
    right = torch.ones(len(numbers), dtype=torch.bool)
    for model in (run.dense, run.pruned):
        with torch.inference_mode():
            right &= torch.cat([model(images).argmax(1) == labels for images, labels in batches])
    return numbers[int(right.nonzero()[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished run, for the second picture")
    parser.add_argument("--image", type=int, help="number of the run's image to show")
    parser.add_argument("--layer", default="blocks.7.mlp:hidden", help="group of units whose masks are shown")
    arguments = parser.parse_args()
    plt.rcParams.update({"font.size": 10, "svg.hashsalt": "xpruner", "font.family": "DejaVu Sans"})
    PICTURES.mkdir(parents=True, exist_ok=True)
    draw_accuracy(curves(RESULTS), PICTURES / "accuracy.svg")
    if arguments.run:
        draw_run(open_run(arguments.run), arguments.image, arguments.layer, PICTURES / "run.png")


if __name__ == "__main__":
    main()
