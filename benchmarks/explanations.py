"""How far the explanations of a finished run can be trusted: its masks, and the maps of its two models.

    python benchmarks/explanations.py runs/cifar10 --control runs/magnitude --output explanations_deit_tiny

Masks: the tenth of a kind's units that a class's row marks is closed in the dense model; what that class and the
others lose, beside the same with class-conditional Taylor's evidence per MAC. Maps: insertion and deletion, each
model's maps scored on that model, and how far the maps of the dense and the pruned model agree on images that all
models get right, beside a random floor and a ``--control``: a run of the same dense model, pruned by magnitude to
about the same accuracy. All on the images that the runs were measured on.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.data import batches
from xpruner.evidence import class_evidence
from xpruner.explain.agreement import agreement, random_floor
from xpruner.explain.faithfulness import deletion_auc, insertion_auc
from xpruner.explain.finished import BATCH, FinishedRun, open_run
from xpruner.explain.maps import map_methods, saliency
from xpruner.explain.maps.anatomy import patch_convolution
from xpruner.explain.selectivity import selectivity
from xpruner.pipeline import environment
from xpruner.training import predict

RESULTS = Path(__file__).parent / "results"
BY_PIXEL = ("attnlrp", "integrated_gradients")


def main() -> None:
    args = parse()
    run = open_run(args.run)
    control = open_run(args.control) if args.control else None
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = {
        "command": f"python {' '.join(sys.argv)}",
        "commit": git.stdout.strip(),
        "images": f"{len(run.images)} {'test' if run.data.val is None else 'held-out training'} images",
        "top1": {name: top1(run, model) for name, model in models(run, control).items()},
        "selectivity": {kind: masks_and_taylor(run, kind, args.share) for kind in args.kinds},
        "maps": maps(run, control, args.maps, args.images),
        "environment": environment(),
    }
    (RESULTS / f"{args.output}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory of a method with masks")
    parser.add_argument("--control", help="run directory of another method, from the same dense model")
    parser.add_argument("--kinds", nargs="*", default=["hidden"], help="of unit that are closed, one after the other")
    parser.add_argument("--share", type=float, default=0.1, help="of the units that are closed for a class")
    parser.add_argument("--images", type=int, default=200, help="whose maps are compared")
    parser.add_argument("--maps", nargs="*", default=map_methods(), help="methods of the maps")
    parser.add_argument("--output", required=True, help="name of the JSON in benchmarks/results")
    return parser.parse_args()


def models(run: FinishedRun, control: FinishedRun | None) -> dict[str, nn.Module]:
    """Returns the models that are compared, by name."""
    return {"dense": run.dense, "pruned": run.pruned} | ({"control": control.pruned} if control else {})


def top1(run: FinishedRun, model: nn.Module) -> float:
    """Returns top-1 on the run's images, in percent."""
    answers, labels = predict(model, run.images, batch_size=BATCH, precision=run.config.precision)
    return 100 * (answers == labels).float().mean().item()


def masks_and_taylor(run: FinishedRun, kind: str, share: float) -> dict[str, Any]:
    """Returns what each class and the others lose without the units that its row of the masks, and Taylor's, marks."""
    groups = [group for group in run.units if group.kind == kind]
    precision = run.config.precision
    calibration = list(batches(run.data.calibration, BATCH, seed=0, shuffle=False))
    evidence = class_evidence(run.dense, run.units, calibration, run.data.num_classes, precision=precision)
    tables = {
        "masks": {group.key: run.dense_masks[group.key] for group in groups},
        "Taylor": {group.key: evidence[group.key] / group.macs for group in groups},
    }
    images = list(batches(run.images, BATCH, seed=0, shuffle=False))
    return {name: _selectivity(run, table, images, share) for name, table in tables.items()}


def _selectivity(run: FinishedRun, table: Mapping[str, Tensor], images: list, share: float) -> dict[str, Any]:
    classes = selectivity(run.dense, run.units, table, images, share=share, precision=run.config.precision)
    own, others = fmean(c.own for c in classes), fmean(c.others for c in classes)
    return {"own": own, "others": others, "ratio": own / others, "classes": [asdict(c) for c in classes]}


def maps(run: FinishedRun, control: FinishedRun | None, methods: list[str], count: int) -> dict[str, Any]:
    """Returns how faithful each method's maps are, and how far those of the models agree."""
    compared = models(run, control)
    images, labels = right_everywhere(run, list(compared.values()), count)
    found: dict[str, Any] = {"images": len(images)}
    for method in methods:
        start = time.perf_counter()
        made = {name: saliency_of(model, images, method, labels) for name, model in compared.items()}
        seconds = (time.perf_counter() - start) / len(images) / len(made)
        found[method] = {
            "insertion": {n: insertion_auc(compared[n], images, m, labels).mean().item() for n, m in made.items()},
            "deletion": {n: deletion_auc(compared[n], images, m, labels).mean().item() for n, m in made.items()},
            "dense and pruned": asdict(agreement(made["dense"], made["pruned"])),
            "random floor": asdict(random_floor(made["dense"], grid_of(run.dense, method, images))),
            "seconds a map": seconds,
        }
        if control:
            found[method]["dense and control"] = asdict(agreement(made["dense"], made["control"]))
        print(method, json.dumps(found[method]), flush=True, file=sys.stderr)
    return found


def right_everywhere(run: FinishedRun, compared: list[nn.Module], count: int) -> tuple[Tensor, Tensor]:
    """Returns images that all models get right, evenly spread, and their labels."""
    answers = [predict(m, run.images, batch_size=BATCH, precision=run.config.precision) for m in compared]
    labels = answers[0][1]
    right = torch.stack([said == labels for said, _ in answers]).all(0).nonzero().flatten()
    chosen = right[torch.linspace(0, len(right) - 1, min(count, len(right))).long()]
    return torch.stack([run.images[number][0] for number in chosen.tolist()]), labels[chosen]


def saliency_of(model: nn.Module, images: Tensor, method: str, labels: Tensor) -> Tensor:
    """Returns the maps of images, a few at a time."""
    pairs = zip(images.split(20), labels.split(20), strict=True)
    return torch.cat([saliency(model, some, method, targets) for some, targets in pairs])


def grid_of(model: nn.Module, method: str, images: Tensor) -> tuple[int, int]:
    """Returns the positions that a method scores: pixels, or patches."""
    height, width = images.shape[-2:]
    patches = patch_convolution(model)
    if method in BY_PIXEL or patches is None:
        return height, width
    return height // patches.stride[0], width // patches.stride[1]


if __name__ == "__main__":
    main()
