"""Trains the small Swin of benchmarks/cifar10_swin.yaml on CIFAR-10 from scratch: the dense start of that comparison.

    python benchmarks/train_swin_cifar10.py --epochs 30

Patch 2, window 4, width 48, depths 2-4-2, heads 3-6-12: 1.49 M parameters, 60.9 MMACs at 32 px. AdamW with warm-up and
cosine decay on the whole training set with flips and shifts; nothing is tuned on the test images. Stopped, the same
command goes on. The weights lie where the comparison looks for them, with a JSON beside them.
"""

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from xpruner.cli.compare import chosen_entries, read_comparison
from xpruner.config import FinetuneConfig
from xpruner.data import InputSpec, load_data
from xpruner.models import load_model
from xpruner.pipeline import environment
from xpruner.training import evaluate, finetune

COMPARISON = "benchmarks/cifar10_swin.yaml"
RECIPE = FinetuneConfig(lr=2e-3, min_lr=1e-5, distill=0.0, label_smoothing=0.1, checkpoint_every=1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    dense = chosen_entries(read_comparison(COMPARISON), "short", ["dense"], COMPARISON)[0].config
    torch.manual_seed(args.seed)
    model, _ = load_model(replace(dense.model, checkpoint=None), dense.model.num_classes)
    data = load_data(dense.data, InputSpec.of(model), args.seed)
    out, recipe = Path(dense.model.checkpoint), replace(RECIPE, epochs=args.epochs)
    finetune(
        model, None, data.train, recipe,
        batch_size=128, seed=args.seed, precision="bf16", state_dir=out.with_suffix(".training"),
    )  # fmt: skip
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict(half)  # what is stored is what is measured
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, out)
    record = {
        "command": f"python {' '.join(sys.argv)}",
        "recipe": {**vars(recipe), "batch_size": 128},
        "test_top1": evaluate(model, data.test, batch_size=250, precision="bf16"),
        "environment": environment(),
    }
    out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
