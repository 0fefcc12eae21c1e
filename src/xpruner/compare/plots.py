"""Plots of a comparison: accuracy against MACs with the Pareto front, and how much of each layer is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpruner.compare.tables import ACCURACY_STAGES, Row
from xpruner.errors import UsageError
from xpruner.files import write_whole

NAMED = 9
"""How many of the best rows get a colour of their own; the others are grey."""


def plot_accuracy(rows: Sequence[Row], path: Path) -> None:
    """Draws top-1 against MACs for each stage, the means over the seeds with their spread, as a PNG.

    Raises:
        UsageError: If matplotlib is not installed.
    """
    stages = [stage for stage in ACCURACY_STAGES if any(row.values(stage) for row in rows)]
    if not stages:
        return
    figure, axes = _pyplot().subplots(1, len(stages), figsize=(5 * len(stages), 4.6), squeeze=False)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.label, []).append(row)
    colours = {label: f"C{i}" for i, label in enumerate(list(dict.fromkeys(_best_first(rows)))[:NAMED])}
    for axis, stage in zip(axes[0], stages, strict=True):
        for label, found in lines.items():
            _line(axis, label, [row for row in found if row.values(stage)], stage, colours.get(label))
        front = front_of([row for row in rows if row.values(stage)], stage)
        axis.plot([x for x, _ in front], [100 * y for _, y in front], "k:", linewidth=1, label="Pareto front")
        axis.axhline(100 * _top1(rows[0], "dense"), color="0.5", linewidth=1, linestyle="--", label="dense, as it is")
        axis.set(title=ACCURACY_STAGES[stage], xlabel="MACs (M)", xlim=(0, 1.05 * _macs(rows[0], "dense")))
    axes[0][0].set_ylabel("top-1 (%)")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    _save(figure, path)


def _line(axis: Any, label: str, rows: list[Row], stage: str, colour: str | None) -> None:
    points = sorted((_macs(row, stage), _top1(row, stage), _half_range(row, stage)) for row in rows)
    if points:
        x, y, spread = zip(*points, strict=True)
        style = {"color": colour, "label": label} if colour else {"color": "0.8", "zorder": 0}
        axis.errorbar(x, [100 * v for v in y], [100 * v for v in spread], marker="o", markersize=4, capsize=2, **style)


def front_of(rows: Sequence[Row], stage: str) -> list[tuple[float, float]]:
    """Returns the Pareto front in millions of MACs, to a hundredth of the dense model's.

    By how much a method undershoots its budget is chance, and does not make it cheaper than others.
    """
    hundredth = _macs(rows[0], "dense") / 100
    points = [(round(_macs(row, stage) / hundredth), _top1(row, stage)) for row in rows]
    return [(share * hundredth, top1) for share, top1 in pareto_front(points)]


def _half_range(row: Row, stage: str) -> float:
    values = row.values(stage)
    return (max(values) - min(values)) / 2


def _macs(row: Row, stage: str) -> float:
    return (row.mean(stage, "macs") or 0.0) / 1e6


def _best_first(rows: Sequence[Row]) -> list[str]:
    """Returns the labels by the accuracy of the last stage at the smallest budget."""
    last = [stage for stage in ACCURACY_STAGES if any(row.values(stage) for row in rows)][-1]
    ranked = sorted((row for row in rows if row.values(last)), key=lambda row: (row.amount, -_top1(row, last)))
    return [row.label for row in ranked]


def _top1(row: Row, stage: str) -> float:
    return row.mean(stage, "top1") or 0.0


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the (cost, value) points that no other beats in both, the cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def plot_keep_rates(rows: Sequence[Row], path: Path) -> None:
    """Draws which share of each group's units every row keeps, in forward order, a panel for each kind, as a PNG.

    Raises:
        UsageError: If matplotlib is not installed.
    """
    kept = {row.label: keep_rates(row) for row in rows if row.results[0]["keep"]}
    kinds = list(dict.fromkeys(key.rpartition(":")[2] for rates in kept.values() for key in rates))
    if not kinds:
        return
    size = (3.2 * len(kinds) + 2, 0.24 * len(kept) + 1.2)
    figure, axes = _pyplot().subplots(1, len(kinds), figsize=size, sharey=True, squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=True):
        keys = list(dict.fromkeys(key for rates in kept.values() for key in rates if key.endswith(f":{kind}")))
        table = [[rates.get(key, float("nan")) for key in keys] for rates in kept.values()]
        image = axis.imshow(table, vmin=0, vmax=1, aspect="auto", cmap="viridis")
        axis.set(title=f"{kind} kept", xlabel="layer", yticks=range(len(kept)), yticklabels=list(kept))
        axis.locator_params(axis="x", integer=True, min_n_ticks=1)
        axis.tick_params(labelsize="small")
    figure.colorbar(image, ax=axes[0].tolist(), fraction=0.02)
    _save(figure, path, tight=False)


def keep_rates(row: Row) -> dict[str, float]:
    """Returns for each group's key the share of its units that is kept, the mean over the seeds."""
    tables = [result["keep"] for result in row.results]
    return {key: sum(table[key][0] / table[key][1] for table in tables) / len(tables) for key in tables[0]}


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("Plots need matplotlib; install it with `pip install xpruner[report]`.") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path, *, tight: bool = True) -> None:
    if tight:
        figure.tight_layout()
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png", bbox_inches="tight"))
    _pyplot().close(figure)
