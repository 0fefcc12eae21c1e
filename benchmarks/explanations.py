"""How far the explanations of a finished run can be trusted: its masks, and the maps of its two models.

    python benchmarks/explanations.py runs/cifar10 --control runs/magnitude --output explanations_deit_tiny

Masks: the tenth of a kind's units that a class's row marks is ablated in the dense model; what that class and the
others lose, beside the same with class-conditional Taylor's evidence per MAC. Maps: insertion and deletion, each
model's maps scored on that model, and how far the maps of the dense and the pruned model agree on images that all
models get right, beside the chance level and a ``--control``: a run of the same dense model, pruned by magnitude to
about the same accuracy. All on the images that the runs were measured on.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from xpruner.compare.results import provenance
from xpruner.explain.map_cards import correct_in_all, map_quality, stack_images
from xpruner.explain.selectivity import selectivity_card
from xpruner.maps import list_maps
from xpruner.run.environment import environment
from xpruner.run.finished import BATCH, FinishedRun, open_run
from xpruner.training import predict

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    args = parse()
    run = open_run(args.run)
    control = open_run(args.control) if args.control else None
    found: dict[str, Any] = {
        "command": f"python {' '.join(sys.argv)}",
        **provenance(),
        "seed": args.seed,
        "config": {name: asdict(opened.config) for name, opened in {"run": run, "control": control}.items() if opened},
        "images": f"{len(run.images)} {'test' if run.data.val is None else 'held-out training'} images",
        "top1": {name: top1(run, model) for name, model in models(run, control).items()},
        "selectivity": {kind: masks_and_taylor(run, kind, args.share) for kind in args.kinds},
        "maps": maps(run, control, args.maps, args.images, args.seed),
        "environment": environment(run.config.precision),
    }
    (RESULTS / f"{args.output}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory of a method with masks")
    parser.add_argument("--control", help="run directory of another method, from the same dense model")
    parser.add_argument("--kinds", nargs="*", default=["hidden"], help="of unit that are ablated, one after the other")
    parser.add_argument("--share", type=float, default=0.1, help="of the units that are ablated for a class")
    parser.add_argument("--images", type=int, default=200, help="whose maps are compared")
    parser.add_argument("--maps", nargs="*", default=list_maps(), help="methods of the maps")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled maps")
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
    return {name: asdict(summary) for name, summary in selectivity_card(run, kind, share).by.items()}


def maps(run: FinishedRun, control: FinishedRun | None, methods: list[str], count: int, seed: int) -> dict[str, Any]:
    """Returns how faithful each method's maps are, and how far those of the models agree."""
    compared = models(run, control)
    images, labels = stack_images(run, correct_in_all(run, list(compared.values()), count))
    found: dict[str, Any] = {"images": len(images)}
    for method in methods:
        trust = map_quality(compared, images, labels, method, seed)
        found[method] = {
            "insertion": trust.insertion,
            "deletion": trust.deletion,
            **{f"dense and {name}": asdict(alike) for name, alike in trust.agreement.items()},
            "random floor": asdict(trust.chance),
            "seconds a map": trust.seconds,
        }
        print(method, json.dumps(found[method]), flush=True, file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
