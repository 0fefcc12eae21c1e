"""Writes the tables of docs/results.md from the JSON files in benchmarks/results: ``python benchmarks/table.py``."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = [
    "model", "preset", "MACs asked", "MACs reached", "dense", "cut", "compensated", "fine-tuned", "epochs",
    "speed-up, batch 32",
    "search, s", "leak",
]  # fmt: skip


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def row(record: dict) -> list[str]:
    config, metrics = record["config"], record["metrics"]
    dense, latency = metrics["dense"], metrics.get("latency", {})
    speed = latency["dense"]["32"] / latency["pruned"]["32"] if latency else float("nan")
    return [
        record["model"],
        config["preset"],
        f"{float(config['budget']):.3f}",
        f"{metrics['finetuned']['macs'] / dense['macs']:.4f}",
        percent(dense["top1"]),
        percent(metrics["pruned"]["top1"]),
        percent(metrics["compensated"]["top1"]),
        percent(metrics["finetuned"]["top1"]),
        str(config["finetune"]["epochs"]),
        f"{speed:.2f}x",
        f"{metrics['search']['seconds']:.0f}",
        percent(metrics["search"]["leak"]),
    ]


def markdown(rows: list[list[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    records = [
        json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("cifar10_*.json"))
    ]
    pruned = [record for record in records if "search" in record["metrics"]]
    pruned.sort(key=lambda r: (r["model"], r["config"]["preset"], -float(r["config"]["budget"])))
    page = ROOT / "docs" / "results.md"
    before, _, rest = page.read_text().partition("<!-- table -->\n")
    after = rest.partition("<!-- end of table -->")[2]
    table = markdown([row(record) for record in pruned])
    page.write_text(f"{before}<!-- table -->\n{table}\n<!-- end of table -->{after}")


if __name__ == "__main__":
    main()
