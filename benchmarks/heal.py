"""Closed form and healing side by side: one search, the same calibration images, no training, no labels.

    python benchmarks/heal.py cifar10 --budget 0.3 --images 1000
    python benchmarks/heal.py imagenet --budget 0.5 --images 400 --set compensate.steps=600

One JSON for each mode: top-1 and the divergence from the dense model's logits on the images measured, and seconds. The
search is done once for each task, budget, number of images and seed, and kept in ``--work``. With ``--validate`` images
held out of the training set are measured instead of the table's.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.compare.results import provenance
from xpruner.config import RunConfig, preset
from xpruner.config.settings import dotted, load_yaml, overlaid
from xpruner.data import batches
from xpruner.data.dataset import ImageDataset
from xpruner.measure.resources import measured
from xpruner.methods import Outcome
from xpruner.methods._outcome_files import read_outcome, write_outcome
from xpruner.run import stages
from xpruner.run.environment import environment
from xpruner.run.folder import comparable, with_precision
from xpruner.run.setup import Setup
from xpruner.runtime.devices import autocast
from xpruner.runtime.modes import evaluating

HERE = Path(__file__).parent
STUDIES = {"cifar10": "cifar10_deit_tiny.yaml", "imagenet": "imagenet_training_free.yaml"}
MODES = ["sequential", "heal"]


def main() -> None:
    args = parse()
    config = with_precision(config_of(args), None)
    setup = stages.rotated(Setup.load(config))
    outcome = found(setup, args.work / f"{args.task}-{args.budget}-{args.images}-seed{args.seed}-{args.validate or 0}")
    cut = stages.cut(setup, outcome.plan)
    test = Measured(setup, setup.data.measured if args.validate is None else validation(setup, args.validate))
    for mode in args.modes:
        setup = setup.under(overlaid(config, {"compensate.mode": mode}, "--modes")).replaced(dense=setup.dense)
        figures: dict[str, Any] = {}
        with measured(figures):
            model = stages.compensated(setup, cut, outcome.plan, outcome.figures)
        rows = {"dense": test.figures(setup.dense), "cut": test.figures(cut), mode: test.figures(model) | figures}
        write(setup, rows, args, mode)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=STUDIES)
    parser.add_argument("--budget", default="0.3")
    parser.add_argument("--images", type=int, default=1000, help="for calibration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate", type=int, help="measure so many training images instead")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--set", nargs="*", default=[], help="options of a run, such as compensate.steps=600")
    parser.add_argument("--name", default="", help="of the options that are set, in the name of the file")
    parser.add_argument("--work", type=Path, default=Path("runs/heal"))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "heal")
    args = parser.parse_args()
    args.commit = provenance()  # of the code that is loaded now
    return args


def config_of(args: argparse.Namespace) -> RunConfig:
    """Returns the options of X-Pruner's row in the task's comparison, with those of the command."""
    study = HERE / STUDIES[args.task]
    settings = dotted(load_yaml(study)["base"], RunConfig, str(study))
    settings |= {"budget": args.budget, "seed": args.seed, "data.calibration_size": args.images}
    settings |= {"finetune.steps": 0, "compensate.focus": 0.7}
    if args.validate and args.task == "cifar10":
        settings["data.val_size"] = args.validate
    settings |= {key: json.loads(value) for key, value in (each.split("=", 1) for each in args.set)}
    return overlaid(preset("default"), settings, "the command")


def validation(setup: Setup, count: int) -> ImageDataset:
    """Returns images held out for tuning: of the training images, those behind the ones for calibration."""
    if len(setup.data.measured) == count:
        return setup.data.measured
    train = setup.data.train.plain()
    seen = len(setup.data.calibration)
    return train.only(range(seen, min(seen + count, len(train))))


def found(setup: Setup, folder: Path) -> Outcome:
    """Returns what the method finds, from its folder where it has been found before."""
    outcome = read_outcome(folder)
    if outcome is None:
        outcome = stages.search(setup)
        write_outcome(folder, outcome)
    return outcome


class Measured:
    """Images, and the dense model's logits on them."""

    def __init__(self, setup: Setup, images: ImageDataset):
        self.precision, self.images = setup.config.precision, images
        self.dense, self.labels = self._logits(setup.dense)

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Returns top-1, agreement with the dense model, both from 0 to 1, and KL(dense || model) in nats."""
        logits, _ = self._logits(model)
        wanted = F.log_softmax(self.dense, -1)
        return {
            "top1": (logits.argmax(-1) == self.labels).float().mean().item(),
            "agreement": (logits.argmax(-1) == self.dense.argmax(-1)).float().mean().item(),
            "kl": F.kl_div(F.log_softmax(logits, -1), wanted, reduction="batchmean", log_target=True).item(),
        }

    @torch.inference_mode()
    def _logits(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        found = []
        with evaluating(model), autocast(self.precision, next(model.parameters()).device):
            for images, labels in batches(self.images, 128, seed=0, shuffle=False):
                found.append((model(images).float(), labels))
        return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def write(setup: Setup, rows: dict[str, dict[str, float]], args: argparse.Namespace, mode: str) -> None:
    """Writes the figures of a mode, with what made them."""
    words = " ".join(word for word in sys.argv[1:] if not word.startswith("/"))
    record = {
        "command": f"python benchmarks/heal.py {words}",
        **args.commit,
        "seed": args.seed,
        "data": setup.config.data.name,
        "images": args.validate or len(setup.data.measured),
        "calibration": len(setup.data.calibration),
        "mode": mode,
        "stages": rows,
        "config": comparable(setup.config),
        "environment": environment(setup.config.precision),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    name = f"{args.task}-{args.budget}-{args.images}-{mode}{args.name and '-' + args.name}-seed{args.seed}.json"
    (args.output / name).write_text(json.dumps(record, indent=1) + "\n")
    print(name, json.dumps(rows), flush=True)


if __name__ == "__main__":
    main()
