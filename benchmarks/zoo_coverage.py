"""The table of what can be pruned, made from the results of ``benchmarks/zoo.py``.

python benchmarks/zoo_coverage.py    # rewrites docs/coverage.md from benchmarks/results/zoo.json
"""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from xpruner.units import KINDS

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "zoo.json", ROOT / "docs" / "coverage.md"
COMMAND = "python benchmarks/zoo.py"


def write(results: dict[str, Any]) -> None:
    """Writes the results as JSON and as a page."""
    RESULTS.write_text(json.dumps(results, indent=0) + "\n")
    PAGE.write_text(page(results))


def page(results: dict[str, Any]) -> str:
    """Returns the page in Markdown."""
    rows = results["models"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return "\n".join(
        [
            "# What can be pruned",
            "",
            f"Made by `{results['command']}` with {versions}, seed {results['seed']}; do not edit by hand.",
            "",
            "Every model is built small (fewer blocks, narrower, smaller images; the same modules), its parameters are",
            "drawn anew, and a random plan is tried on it: the output of the gated model against that of the cut one",
            "(within 1e-5 of the largest output in float32, or 1e-10 in float64 where drawn weights let rounding",
            "errors grow), gates of one sample against another's, MACs and parameters as predicted against torch's",
            "counter (CoaT within 0.2 %, its heads cost unequally), a training step, and a file that brings the model",
            "back bit for bit.",
            "",
            *(line for library in ("timm", "transformers") for line in _library(library, rows)),
            "## Refused",
            "",
            *_refusals(rows),
            "",
        ]
    )


def _library(library: str, rows: list[dict[str, Any]]) -> list[str]:
    own = [row for row in rows if row["library"] == library]
    both = sum({"head", "hidden"} <= row["kinds"].keys() for row in own)
    some = sum(bool(row["kinds"]) for row in own)
    classes = defaultdict(list)
    for row in own:
        classes[row["class"]].append(row)
    table = [
        f"## {library}",
        "",
        f"{len(own)} models in {len(classes)} classes: {both} with heads and hidden units, {some} with units of some",
        f"kind, {len(own) - some} refused.",
        "",
        f"| class | models | {' | '.join(KINDS)} | built as |",
        f"|---|---:|{'---:|' * len(KINDS)}---|",
    ]
    for name, members in sorted(classes.items(), key=lambda item: (-len(item[1]), item[0])):
        counts = Counter(kind for row in members for kind in row["kinds"])
        cells = [str(counts[kind]) if counts[kind] else "–" for kind in KINDS]
        built = Counter(row["reduced"] for row in members).most_common(1)[0][0]
        table.append(f"| {name} | {len(members)} | {' | '.join(cells)} | {built} |")
    return [*table, ""]


def _refusals(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each reason, with the models that it holds for."""
    reasons = defaultdict(list)
    for row in rows:
        for kind, text in row["refused"].items():
            reasons[kind, row["class"], _reason(text)].append(row["name"])
    lines = ["| kind | class | why | models |", "|---|---|---|---|"]
    for (kind, cls, why), names in sorted(reasons.items(), key=lambda item: (KINDS.index(item[0][0]), item[0][1])):
        lines.append(f"| {kind} | {cls} | {why} | {', '.join(names)} |")
    return lines


def _reason(message: str) -> str:
    """Returns a refusal without the path of the module, which differs from model to model."""
    message = re.sub(r"; (leave|write|nothing).*$", "", message.rstrip("."))
    return re.sub(r"^Cannot prune '[^']*'", "", message).strip(" :").replace("|", "\\|")


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text()))
