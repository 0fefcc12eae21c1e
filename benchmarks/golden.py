"""What tiny runs of everything come to, as hashes: the same before and after a change that is meant to change nothing.

    python benchmarks/golden.py before.json
    python benchmarks/golden.py after.json --against before.json

Hashes hold on one machine only; ``tests/test_golden.py`` compares plans and figures on any.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from xpruner.cli import main

DENSE = Path(__file__).parent.parent / "tests" / "golden" / "dense"
"""A ViT of two blocks, trained on the digits for 30 epochs by ``xpruner.run.demo.train_dense``."""
DATA = {"name": "digits", "train_size": 320, "test_size": 100, "calibration_size": 96, "batch_size": 32}
SHORT: dict[str, Any] = {"seed": 0, "precision": "fp32", "latency": [], "finetune": {"epochs": 1}, "rounds": 2}

SCORING = (
    "activation_norm", "head_gradient", "isomorphic", "l1", "l2", "random", "savit", "scop", "taylor", "torch_pruning",
    "wanda",
)  # fmt: skip
TRAINING = ("corp", "flap", "nvit", "s2vite", "uvc", "vbp", "vit_slim", "wdpruning")
"""Methods whose search changes weights."""

RUNS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"preset": "paper", "masks": {"steps": 12}, "thresholds": {"steps": 12}},
    "global_rank": {"thresholds": {"mode": "global_rank"}},
    "learned": {"units": ["head", "hidden"], "masks": {"steps": 8}, "thresholds": {"steps": 12}},
    "guarded": {"budget": "0.27", "max_class_drop": 2.8, "data": {"train_size": 640}},
    **{method: {"method": method} for method in SCORING},
    **{method: {"method": method, "search": {"steps": 8}, "compensate": {"mode": "none"}} for method in TRAINING},
}
"""Options of each run over SHORT, by its name."""

COMPARED = {
    "X-Pruner": {"method": "xpruner", "budgets": ["0.5"]},
    "HVT": {"method": "hvt", "compensate": {"mode": "none"}, "budgets": ["544416"]},  # what its token pools come to
}
"""Rows of a comparison."""


def golden(folder: Path) -> dict[str, dict[str, Any]]:
    """Runs everything into a folder and returns hashes and figures by name."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for name, options in RUNS.items():
        print(name, file=sys.stderr)
        asked = {**SHORT, **options}
        asked["data"] = {**DATA, **asked.get("data", {})}
        _prune(folder / name, asked)
        found[name] = of_run(folder / name)
    _call("specialise", folder / "default", "--classes", "1,4,7", "--budget", "0.4", "--output", folder / "special")
    found["specialise"] = {"weights": _hash(folder / "special" / "model" / "model.safetensors")}
    return found | _compared(folder)


def of_run(folder: Path) -> dict[str, Any]:
    """Returns what a run came to: hashes of plan, masks and weights, the kept units, and the figures of its stages."""
    keep = json.loads((folder / "plan.json").read_text())["keep"]
    metrics = json.loads((folder / "metrics.json").read_text())
    masks = folder / "masks.safetensors"
    return {
        "plan": hashlib.sha256(json.dumps(keep, sort_keys=True).encode()).hexdigest(),
        "masks": _hash(masks) if masks.exists() else None,
        "weights": _hash(folder / "pruned" / "model.safetensors"),
        "keep": keep,
        "figures": {
            f"{stage}.{key}": metrics[stage][key]
            for stage in ("dense", "pruned", "compensated", "finetuned")
            for key in ("top1", "macs", "params")
        },
    }


def _prune(output: Path, options: dict[str, Any]) -> None:
    path = output.with_suffix(".json")
    path.write_text(json.dumps({**options, "model": {"name": str(DENSE)}}))
    _call("prune", "--config", path, "--output", output)


def _compared(folder: Path) -> dict[str, dict[str, Any]]:
    comparison = {
        "output": str(folder / "results"), "work": str(folder / "work"), "budgets": ["0.5", "544416"], "seeds": [0],
        "length": "short", "lengths": {"short": {"search": {"steps": 8}, "finetune": {"steps": 8}}},
        "base": {"model": {"name": str(DENSE)}, "data": DATA, "precision": "fp32", "rounds": 2},
        "entries": COMPARED,
    }  # fmt: skip
    path = folder / "comparison.json"
    path.write_text(json.dumps(comparison))
    _call("compare", "--config", path)
    found = {}
    for result in sorted((folder / "results").glob("*.json")):
        content = json.loads(result.read_text())
        stages = content["stages"]
        figures = {
            f"{stage}.{key}": value
            for stage, of_stage in stages.items()
            for key, value in of_stage.items()
            if key in ("top1", "agreement", "macs", "params", "taken")
        }
        found[f"compare {content['label']}"] = {"keep": content["keep"], "figures": figures}
    return found


def _call(*words: str | Path) -> None:
    if main([str(word) for word in words]):
        raise SystemExit(f"xpruner {words[0]} failed")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Returns which parts of which runs are not what they were."""
    return [
        f"{name}: {part}"
        for name in sorted(before.keys() | after.keys())
        for part in sorted(before.get(name, {}).keys() | after.get(name, {}).keys())
        if before.get(name, {}).get(part) != after.get(name, {}).get(part)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--against", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = golden(Path(temporary))
    asked.output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    changed = differences(json.loads(asked.against.read_text()), found) if asked.against else []
    print("\n".join(changed) or f"{len(found)} runs, all as before" if asked.against else f"{len(found)} runs")
    sys.exit(bool(changed))
