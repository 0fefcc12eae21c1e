"""Trains the dense model of a comparison on the comparison's own training images, and puts it where that looks for it.

    python benchmarks/train_dense.py benchmarks/cifar10_swin.yaml --epochs 30 --lr 2e-3 --batch-size 128
    python benchmarks/train_dense.py benchmarks/ablations.yaml --epochs 6 --lr 2e-4 --batch-size 64 \
        --start ../shared/models/deit_tiny_patch16_224.safetensors

The small Swin (1.49 M parameters, 60.9 MMACs at 32 px) learns from scratch; ``--start`` is a timm file of the same
network with another head and image size. Images that a comparison holds out stay unseen. AdamW with warm-up and
cosine decay, flips and shifts; stopped, the same command goes on. A JSON beside the weights says how they came about.
"""

import argparse
import json
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from xpruner.compare import read_study
from xpruner.compare.results import provenance
from xpruner.config import FinetuneConfig, ModelConfig
from xpruner.data import InputSpec, class_names, load_data
from xpruner.models import load_model
from xpruner.run.environment import environment
from xpruner.runtime.devices import accelerator
from xpruner.runtime.precision import resolve_precision
from xpruner.training import evaluate, finetune
from xpruner.training.options import LoopOptions


def main() -> None:
    args = parse()
    source = provenance()  # of the code that is loaded now
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    config = read_study(args.comparison).entries()[0].config
    recipe = FinetuneConfig(
        epochs=args.epochs, lr=args.lr, min_lr=1e-5, distill=0.0, label_smoothing=0.1, checkpoint_every=1000,
        cuda_graph=True,
    )  # fmt: skip
    out = Path(config.model.checkpoint)
    precision = resolve_precision("auto", accelerator().device)
    torch.manual_seed(args.seed)
    model, _ = load_model(untrained(config.model, args.start), len(class_names(config.data)))
    data = load_data(config.data, InputSpec.of(model), args.seed)
    options = LoopOptions(args.batch_size, 0, args.seed, precision, out.with_suffix(".training"))
    finetune(model, None, data.train, recipe, options)
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict(half)  # what is stored is what is measured
    save_file(half, out)
    images, which = (data.test, "test") if data.val is None else (data.val, "held out")
    record = {
        "command": f"python {' '.join(sys.argv)}",
        **source,
        "seed": args.seed,
        "recipe": asdict(recipe),
        "images": which,
        "top1": evaluate(model, images, batch_size=250, precision=precision),
        "environment": environment(precision),
    }
    out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", help="YAML file of the comparison")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--start", help="weights to start from; random ones when absent")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def untrained(model: ModelConfig, start: str | None) -> ModelConfig:
    """Returns the model without the weights that are about to be made; timm fits those to start from to its shapes."""
    if start is None:
        return replace(model, checkpoint=None)
    overlay = {"pretrained_cfg_overlay": {"file": start}}
    return replace(model, checkpoint=None, pretrained=True, kwargs={**model.kwargs, **overlay})


if __name__ == "__main__":
    main()
