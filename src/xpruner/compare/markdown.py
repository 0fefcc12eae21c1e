"""The report of a comparison: Markdown tables, with the plots beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpruner.compare.study import DENSE
from xpruner.compare.tables import ACCURACY_STAGES, Row, precision_cells, rows_of
from xpruner.files import write_text
from xpruner.text import printable, printable_lines

COLUMNS = [
    "method", "seeds", "MACs", *ACCURACY_STAGES.values(), "agreement", "search", "compensation", "tuning", "peak MB",
    "precision", "on",
]  # fmt: skip
TIMED = ("search", "compensated", "finetuned")
LEGEND = (
    "Cut: the dense weights under the plan, nothing else (of the dense model: as it is). As found: with the weights "
    "that the search itself trained or compensated, where it did. Compensated: after the closed-form compensation that "
    "every method is offered. Fine-tuned: after the same training, which starts from the compensated model unless that "
    "does worse on the calibration images (`not taken`). MACs: share of the dense model's that is left, by torch's "
    "counter. Agreement: with the dense model's classes, at the last stage. Search, compensation and tuning: wall "
    "seconds / CPU seconds, means over the runs that were never stopped; peak memory: the highest of the three, of the "
    "GPU where the runs were on one; all on machines that may have been busy with others."
)


def write_comparison(results: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Writes ``report.md`` and its plots into a folder, and returns the path of the page.

    Args:
        results: As :func:`xpruner.compare.results.read_results` gives them.
        folder: To write into.

    Raises:
        UsageError: If matplotlib is not installed.
        XPrunerError: If the folder cannot be written.
    """
    from xpruner.compare.plots import plot_accuracy, plot_keep_rates

    rows = rows_of(results)
    parts = [f"# {printable(results[0]['title'])}", printable_lines(results[0]["note"]), LEGEND, _mixture(rows)]
    for length in dict.fromkeys(row.length for row in rows):
        chosen = [row for row in rows if row.length == length]
        for budget in dict.fromkeys(row.budget for row in chosen if not is_dense(row)):
            at = [row for row in chosen if row.budget == budget or is_dense(row)]
            image = f"keep_rates-{budget}-{length}.png"
            plot_keep_rates(at, folder / image)
            parts += [f"## Budget {budget}, {length}", markdown(at), _image(folder, image, "units kept")]
        image = f"accuracy-{length}.png"
        plot_accuracy(chosen, folder / image)
        parts += [f"## Accuracy against MACs, {length}", _image(folder, image, "accuracy against MACs")]
    parts += ["## Where the numbers come from", "\n".join(sources_of(results))]
    page = folder / "report.md"
    write_text(page, "\n\n".join(part for part in parts if part) + "\n")
    return page


def _mixture(rows: Sequence[Row]) -> str:
    """Returns a notice where the results were made in several precisions, else nothing."""
    precisions = sorted(set().union(*(row.precisions for row in rows)))
    return f"These tables hold results in {' and in '.join(precisions)}." if len(precisions) > 1 else ""


def _image(folder: Path, name: str, alt: str) -> str:
    return f"![{alt}]({name})" if (folder / name).exists() else ""


def is_dense(row: Row) -> bool:
    """Whether a row is the dense model's, which belongs in every table."""
    return row.results[0]["config"]["method"] == DENSE


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table of some rows in Markdown, without empty columns."""
    cells = [_cells(row, precision) for row, precision in zip(rows, precision_cells(rows), strict=True)]
    filled = [i for i in range(len(COLUMNS)) if any(line[i] != "–" for line in cells)]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *cells]
    return "\n".join("| " + " | ".join(_cell(line[i]) for i in filled) + " |" for line in lines)


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")


def _cells(row: Row, precision: str) -> list[str]:
    accuracy = {stage: row.percent(stage) for stage in ACCURACY_STAGES}
    refused = row.values("compensated", "taken").count(False)
    if refused:
        accuracy["compensated"] += f" (not taken by {refused})"
    if is_dense(row):
        accuracy["cut"] = row.percent("dense")
    left = row.values(row.last, "macs")[0] / row.values("dense", "macs")[0]
    seconds = [_seconds(row, stage) for stage in TIMED]
    peaks = [peak for stage in TIMED for peak in row.values(stage, "peak_mb")]
    peak = f"{max(peaks):.0f}" if peaks else "–"
    return [row.label, str(len(row.results)), f"{left:.4f}", *accuracy.values(), row.percent(row.last, "agreement"),
            *seconds, peak, precision, ", ".join(sorted({device_of(result) for result in row.results}))]  # fmt: skip


def _seconds(row: Row, stage: str) -> str:
    wall, worked = row.mean(stage, "seconds"), row.mean(stage, "cpu_seconds")
    return "–" if wall is None or worked is None else f"{wall:.0f} / {worked:.0f}"


def device_of(result: dict[str, Any]) -> str:
    """Returns the device of a run; a result without one is from a CPU."""
    return result["environment"].get("device", "CPU")


def sources_of(results: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a line for each command and commit, with the seeds, the data and the versions."""
    lines: dict[str, set[int]] = {}
    for result in results:
        config, versions, data = result["config"], result["environment"], result["config"]["data"]
        commit = result.get("commit", result["version"])
        text = (
            f"`{result['command']}`, commit {commit}, {data['name']}, {result['images']} images"
            f"{' held out of the training set' if data['val_size'] else ''}, batch {data['batch_size']}, "
            f"{config['precision']}, torch {versions['torch']}, timm {versions['timm']}, "
            f"{device_of(result)}, {versions['threads']} threads"
        )
        lines.setdefault(text, set()).add(config["seed"])
    return [f"- {printable(text)}, seeds {', '.join(map(str, sorted(seeds)))}" for text, seeds in sorted(lines.items())]
