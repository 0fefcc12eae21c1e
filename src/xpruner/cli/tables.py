"""The tables that the commands print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from xpruner.cli.console import show
from xpruner.run.metrics import STAGES, titles_of

if TYPE_CHECKING:
    from xpruner.methods.xpruner.guard import GuardFigures

GUARDED = 12
"""Classes in the table of the result of a guard."""
FILES = ("pruned", "plan.json", "masks.safetensors", "metrics.json", "config.yaml", "log.txt")


def show_result(metrics: Mapping[str, Any], folder: Path) -> None:
    """Prints the figures of every stage of a run, a sentence where it is no faster, its guard, and where the files are.

    Args:
        metrics: As in ``metrics.json``.
        folder: The run directory.
    """
    from xpruner.run.finished import open_run

    files = ", ".join(name for name in FILES if (folder / name).exists())
    run = open_run(folder)
    guard = guard_text(run.guard, run.class_names) if run.guard else []
    show(stages_table(metrics), *filter(None, [slower(metrics)]), *guard, f"Files in {folder}: {files}")


def stages_table(metrics: Mapping[str, Any]) -> Table:
    """Returns a row for each stage: accuracy, cost with its share of the dense model's, and latency if measured."""
    latency = metrics.get("latency", {"dense": {}})
    table = new_table(
        "", "top-1 %", "MACs (M)", "parameters (M)", *(f"ms at batch {size}" for size in latency["dense"])
    )
    times = {
        "dense": [f"{ms:.2f}" for ms in latency["dense"].values()],
        "finetuned": [
            f"{ms:.2f} ({latency['dense'][size] / ms:.2f}×)" for size, ms in latency.get("pruned", {}).items()
        ],
    }
    for stage, title in titles_of(metrics).items():
        table.add_row(title, *_accuracy_and_cost(metrics, stage), *times.get(stage, []))
    return table


def stages_of(metrics: Mapping[str, Any]) -> Table:
    """Returns a row for each stage of a specialised model: accuracy, and cost with its share of the dense model's."""
    table = new_table("", "top-1 %", "MACs (M)", "parameters (M)")
    titles = {**STAGES, "cut": "pruned"}
    for stage in metrics:
        table.add_row(titles[stage], *_accuracy_and_cost(metrics, stage))
    return table


def slower(metrics: Mapping[str, Any]) -> str | None:
    """Returns a sentence with the batch sizes at which the pruned model is not faster, or None."""
    latency = metrics.get("latency", {"dense": {}})
    sizes = [size for size, ms in latency["dense"].items() if latency["pruned"][size] >= ms]
    return f"The pruned model is not faster than the dense one at batch size {' and '.join(sizes)}." if sizes else None


def guard_text(guard: "GuardFigures", class_names: Sequence[str]) -> list[Table | str]:
    """Returns the result of the guard of the classes: the drops, the multipliers, and their price."""
    table = new_table("class", "points lost before training", "multiplier")
    measured = zip(class_names, guard.drops, guard.weights, strict=True)
    rows = sorted(
        ((drop, name, weight) for name, drop, weight in measured if drop is not None), key=lambda row: -row[0]
    )
    for drop, name, weight in rows[:GUARDED]:
        table.add_row(name, f"{drop:.2f}", f"{weight:.2f}")
    held = (
        f"The guard held: before training no class loses more than {guard.limit:g} points on {guard.images} training "
        f"images; {rows[0][1]} loses most, {guard.largest:.2f}."
    )
    return [held, _price(guard), table]


def _price(guard: "GuardFigures") -> str:
    if not guard.changed:
        return "The plan held as it was, and the guard cost nothing."
    change = f"{'costs' if guard.price >= 0 else 'gains'} {abs(guard.price):.2f} points of top-1 over all these images"
    held = (
        "none of the larger budgets tried has one that does"
        if guard.budget_without is None
        else f"the least budget tried that has one that does is {guard.budget_without:.2f} of the dense model's cost"
    )
    return (
        f"It {change}, beside the plan without it at the same budget, {guard.budget:.2f}, under which a class loses "
        f"{guard.largest_without:.2f}; among plans without multipliers, {held}."
    )


def figures_table(figures: Mapping[str, Any]) -> Table:
    """Returns the figures of one model, as from ``xpruner evaluate``."""
    latency = figures.get("latency", {})
    table = new_table(
        "model", "images", "top-1 %", "MACs (M)", "parameters (M)", *(f"ms at batch {b}" for b in latency)
    )
    cells = [f"{100 * figures['top1']:.2f}", _millions(figures["macs"]), _millions(figures["params"])]
    table.add_row(figures["model"], str(figures["images"]), *cells, *(f"{ms:.2f}" for ms in latency.values()))
    return table


def units_table(contents: Mapping[str, Any]) -> Table:
    """Returns a row for each group of units, and the totals, as from ``xpruner inspect``."""
    table = new_table("group", "kind", "units", "width", "MACs a unit", "MACs (M)", "share %", "parameters (M)")
    for group in contents["groups"]:
        numbers = [str(group["units"]), str(group["width"]), f"{group['macs_per_unit']:,.0f}"]
        table.add_row(group["key"], group["kind"], *numbers, *_sums(group, group["share"]))
    table.add_section()
    total = contents["total"]
    for title in ("prunable", "total"):
        sums = contents[title]
        table.add_row(title, "", "", "", "", *_sums(sums, sums["macs"] / total["macs"]))
    return table


def data_tables(found: Mapping[str, Any], spec: object) -> list[Table | str]:
    """Returns what was found of data, as from ``xpruner inspect --data``: images a class, files, and the input.

    Args:
        found: As from ``data.overview``, with ``images_a_class`` of every part.
        spec: How images are prepared, described by its ``str``.
    """
    counts = found["images_a_class"]
    classes = new_table("class", "label", *(f"{part} images" for part in counts))
    for label, name in enumerate(found["classes"]):
        classes.add_row(name, str(label), *(str(of_part[label]) for of_part in counts.values()))
    classes.add_section()
    classes.add_row("all classes", "", *(str(sum(of_part)) for of_part in counts.values()))
    files = new_table("files", "read", "passed over")
    for kind in [*found["read"], *found["left_out"]]:
        files.add_row(kind, str(found["read"].get(kind, "")), str(found["left_out"].get(kind, "")))
    prepared = f"Images are prepared as {spec}."
    return [classes, *[files] * bool(files.rows), prepared]


def _accuracy_and_cost(metrics: Mapping[str, Any], stage: str) -> list[str]:
    figures, dense = metrics[stage], metrics["dense"]
    return [f"{100 * figures['top1']:.2f}", *(_millions(figures[key], dense[key]) for key in ("macs", "params"))]


def _sums(costs: Mapping[str, float], share: float) -> list[str]:
    return [_millions(costs["macs"]), f"{100 * share:.1f}", _millions(costs["params"])]


def new_table(first: str, *columns: str) -> Table:
    """Returns an empty table with these columns; the first holds names, the others figures."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first)
    for title in columns:
        table.add_column(title, justify="right")
    return table


def _millions(amount: float, of: float | None = None) -> str:
    share = "" if of is None else f" ({100 * amount / of:.1f} %)"
    return f"{amount / 1e6:,.3f}{share}"
