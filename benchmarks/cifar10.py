"""X-Pruner on CIFAR-10: one JSON in benchmarks/results/ for each preset and budget, resumable.

    python benchmarks/cifar10.py --model deit_tiny --data ../shared/data/cifar10 \
        --weights ../shared/models/deit_tiny_cifar10_96.safetensors --presets default paper --budgets 0.7 0.5 0.3

``--dense`` gives the dense model the same extra fine-tuning, so that training is not mistaken for the merit of pruning.
"""

import argparse
import copy
import json
import logging
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from xpruner.compare.results import provenance
from xpruner.config import DataConfig, ModelConfig, RunConfig, preset
from xpruner.data import InputSpec, load_data
from xpruner.models import load_model
from xpruner.run.environment import environment
from xpruner.run.folder import comparable
from xpruner.run.pipeline import run_pipeline
from xpruner.runtime.devices import accelerator
from xpruner.runtime.precision import resolve_precision
from xpruner.training import evaluate, finetune
from xpruner.training.options import LoopOptions

HEADS_AND_HIDDEN = ["head", "hidden"]
RESULTS = Path(__file__).parent / "results"
MODELS = {
    "deit_tiny": ModelConfig("deit_tiny_patch16_224", num_classes=10, img_size=96),
    "swin": ModelConfig(
        "swin_tiny_patch4_window7_224",
        num_classes=10,
        img_size=32,
        kwargs={"patch_size": 2, "window_size": 4, "embed_dim": 48, "depths": [2, 4, 2], "num_heads": [3, 6, 12]},
    ),
}


def main() -> None:
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    for name in args.presets:
        for budget in args.budgets:
            record(args, f"{name}_{budget}{suffix(args)}", prune_once(args, name, budget))
    if args.dense:
        record(args, "dense_finetuned", finetune_dense(args))


def suffix(args: argparse.Namespace) -> str:
    return "" if args.units == HEADS_AND_HIDDEN else f"_{'+'.join(args.units)}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="deit_tiny")
    parser.add_argument("--data", default="../shared/data/cifar10", help="folder with train.parquet and test.parquet")
    parser.add_argument("--weights", help="safetensors of the dense model")
    parser.add_argument("--presets", nargs="*", default=["default", "paper"])
    parser.add_argument("--budgets", nargs="*", default=["0.7", "0.5", "0.3"])
    parser.add_argument("--units", nargs="*", default=HEADS_AND_HIDDEN, help="kinds of unit to prune")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--val-size", type=int, default=0, help="tune on so many held-out training images, not on test")
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--runs", default="runs", help="where the run directories lie")
    args = parser.parse_args()
    if args.weights is None:
        shared = "../shared/models/deit_tiny_cifar10_96.safetensors"
        args.weights = shared if args.model == "deit_tiny" else "benchmarks/weights/swin_cifar10.safetensors"
    args.commit = provenance()["commit"]  # of the code that is loaded now
    return args


def configure(args: argparse.Namespace, name: str, budget: str) -> RunConfig:
    config = preset(name)
    return replace(
        config,
        budget=budget,
        output=f"{args.runs}/cifar10_{args.model}_{name}_{budget}{suffix(args)}_seed{args.seed}",
        units=args.units,
        model=replace(MODELS[args.model], checkpoint=args.weights),
        data=DataConfig("cifar10", root=args.data, val_size=args.val_size),
        finetune=replace(config.finetune, epochs=args.epochs),
        seed=args.seed,
    )


def prune_once(args: argparse.Namespace, name: str, budget: str) -> dict:
    config = configure(args, name, budget)
    metrics = run_pipeline(config).metrics
    return {"config": comparable(replace(config, precision=metrics["environment"]["precision"])), "metrics": metrics}


def finetune_dense(args: argparse.Namespace) -> dict:
    """The recipe of the default preset on the dense model, with itself as the teacher."""
    config = configure(args, "default", "1.0")
    precision = resolve_precision(config.precision, accelerator().device)
    dense, _ = load_model(config.model, 10)
    data = load_data(config.data, InputSpec.of(dense), config.seed)
    start = time.perf_counter()
    options = LoopOptions(config.data.batch_size, 0, args.seed, precision, Path(config.output) / "state")
    tuned = finetune(copy.deepcopy(dense), dense, data.train, config.finetune, options)
    seconds = time.perf_counter() - start
    top1 = evaluate(tuned, data.test if data.val is None else data.val, precision=precision)
    metrics = {"finetuned": {"top1": top1, "seconds": seconds}, "environment": environment(precision)}
    return {"config": {"finetune": asdict(config.finetune)}, "metrics": metrics}


def record(args: argparse.Namespace, what: str, result: dict) -> None:
    images = f"{args.val_size:,} held-out training images" if args.val_size else "10,000 test images"
    head = {
        "command": f"python {shlex.join(sys.argv)}",
        "what": what,
        "model": args.model,
        "seed": args.seed,
        "data": f"CIFAR-10, {50_000 - args.val_size:,} training and {images}",
        "commit": args.commit,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"cifar10_{args.model}_{what}_seed{args.seed}.json"
    path.write_text(json.dumps({**head, **result}, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
