"""Writes the tables of README.md and docs/results.md from benchmarks/results/*.json: ``python benchmarks/table.py``."""

import json
from pathlib import Path

from xpruner.compare.results import read_results
from xpruner.compare.tables import Row, rows_of

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
HEAD = [
    "model", "preset", "units", "MACs asked", "MACs reached", "dense", "cut", "compensated", "fine-tuned", "epochs",
    "speed-up, batch 32", "search, s", "leak",
]  # fmt: skip
BUDGETS = ("0.5", "0.3")
COMPARED_HEAD = ["", "seeds", *(f"{stage} at {b}" for b in BUDGETS for stage in ("untrained", "fine-tuned"))]


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def speed_up(metrics: dict) -> str:
    latency = metrics["latency"]
    return f"{latency['dense']['32'] / latency['pruned']['32']:.2f}x"


def kinds(config: dict) -> list[str]:
    return config.get("units", ["head", "hidden"])


def row(record: dict) -> list[str]:
    config, metrics = record["config"], record["metrics"]
    return [
        record["model"],
        config["preset"],
        ", ".join(kinds(config)),
        f"{float(config['budget']):.3f}",
        f"{metrics['finetuned']['macs'] / metrics['dense']['macs']:.4f}",
        *(percent(metrics[stage]["top1"]) for stage in ("dense", "pruned", "compensated", "finetuned")),
        str(config["finetune"]["epochs"]),
        speed_up(metrics),
        f"{metrics['search']['seconds']:.0f}",
        percent(metrics["search"]["leak"]),
    ]


def order(record: dict) -> tuple:
    config = record["config"]
    return record["model"], config["preset"], len(kinds(config)), -float(config["budget"])


SHOWN = (
    "X-Pruner default", "X-Pruner default, heads and hidden", "X-Pruner paper", "Taylor, global",
    "Taylor, global, finer units", "Hessian (NViT), heads rotated", "SAViT", "CORP", "random, block",
)  # fmt: skip
"""The rows of the README: what leads, what the paper says, the strongest of each family, and chance."""


def compared_rows(rows: list[Row]) -> list[list[str]]:
    """The comparison on DeiT-tiny, for the README: some methods with results at every budget, the best first."""
    found = {(row.label, row.budget): row for row in rows}
    dense = next(row for row in rows if row.label == "dense")
    table = [["dense, as fine-tuned", str(len(dense.results)), *(["", dense.percent("finetuned")] * len(BUDGETS))]]
    for row in (row for row in rows if row.budget == BUDGETS[-1] and row.label in SHOWN):
        at = [found[row.label, budget] for budget in BUDGETS if (row.label, budget) in found]
        if len(at) == len(BUDGETS):
            stages = [row.percent(stage) for row in at for stage in ("compensated", "finetuned")]
            table.append([row.label, "/".join(str(len(row.results)) for row in at), *stages])
    return table


def speed_rows(speed: dict) -> list[list[str]]:
    steps = [
        [f"{name} step", f"{speed['step_ms'][name]:.0f} ms", f"{speed['step_ratio'][name]:.2f}",
         f"{speed['peak_mb'][name]:.0f} MB", f"{speed['peak_ratio'][name]:.2f}"]
        for name in speed["step_ms"]
    ]  # fmt: skip
    cuts = [[f"apply, {name}", f"{ms:.0f} ms", "", "", ""] for name, ms in speed["apply_ms"].items()]
    search = ["default search, in epochs of training", "", f"{speed['search_in_epochs']:.2f}", "", ""]
    return [*steps, *cuts, search, ["xpruner --help", f"{1000 * speed['help_s']:.0f} ms", "", "", ""]]


def map_rows(maps: dict) -> list[list[str]]:
    """Faithfulness of each method's maps, and the rank correlation between models, with the floor."""
    methods = {name: found for name, found in maps.items() if name != "images"}
    return [
        [
            name,
            *(" / ".join(f"{value:.2f}" for value in found[auc].values()) for auc in ("insertion", "deletion")),
            *(f"{found[pair]['spearman']:.2f}" for pair in ("dense and pruned", "dense and control", "random floor")),
        ]
        for name, found in methods.items()
    ]


def selectivity_rows(kinds: dict) -> list[list[str]]:
    return [
        [kind, name, f"{found['own']:.1f}", f"{found['others']:.1f}", f"{found['ratio']:.2f}"]
        for kind, tables in kinds.items()
        for name, found in tables.items()
    ]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def put(page: Path, name: str, table: str) -> None:
    """Replaces what stands between the two markers of a table."""
    before, _, rest = page.read_text().partition(f"<!-- {name} -->\n")
    after = rest.partition(f"<!-- end of {name} -->")[2]
    page.write_text(f"{before}<!-- {name} -->\n{table}\n<!-- end of {name} -->{after}")


def main() -> None:
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("cifar10_*.json"))]
    pruned = [record for record in records if "search" in record["metrics"]]
    pruned.sort(key=order)
    put(ROOT / "docs" / "results.md", "pruning", markdown(HEAD, [row(record) for record in pruned]))
    compared = rows_of(read_results(RESULTS / "compare" / "cifar10_deit_tiny"))
    put(ROOT / "README.md", "compared", markdown(COMPARED_HEAD, compared_rows(compared)))
    speed = json.loads((RESULTS / "speed.json").read_text())
    head = ["", "median", "against training", "peak memory", "against training"]
    put(ROOT / "docs" / "results.md", "speed", markdown(head, speed_rows(speed)))
    explained = json.loads((RESULTS / "explanations_deit_tiny.json").read_text())
    head = ["units", "ranked by", "the class loses", "the others lose", "ratio"]
    put(ROOT / "docs" / "results.md", "selectivity", markdown(head, selectivity_rows(explained["selectivity"])))
    head = ["map", "insertion", "deletion", "dense and pruned", "dense and control", "random floor"]
    put(ROOT / "docs" / "results.md", "maps", markdown(head, map_rows(explained["maps"])))
    for budget in ("0.3", "0.15"):
        table = (RESULTS / "specialise" / f"table_{budget}.md").read_text().strip()
        put(ROOT / "docs" / "results.md", f"specialised to {budget}", table)


if __name__ == "__main__":
    main()
