"""Speed and memory of the parts, as ratios inside one run: ``python benchmarks/speed.py [--out FILE]``.

Measures, on DeiT-tiny at 96 px with random weights: a plain training step against a mask-learning step of each preset
(milliseconds, alternating, medians; peak resident memory of each in a process of its own), surgery on DeiT-tiny and
DeiT-base, and how long ``import xpruner`` and ``xpruner --help`` take.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import xpruner  # before timm: it declares what torchvision lacks beside a CPU build of torch

# isort: split
import timm
import torch
from torch import nn
from torch.nn import functional as F

from xpruner.calibration.rotate_heads import rotate_heads
from xpruner.compare.results import provenance
from xpruner.config import preset
from xpruner.masks.learning import learn_masks
from xpruner.methods import Problem, find_method, kinds_for
from xpruner.run.environment import environment
from xpruner.runtime.devices import autocast
from xpruner.runtime.precision import resolve_precision
from xpruner.training.options import LoopOptions

BATCH, CLASSES, ROUNDS = 64, 10, 15
CPU = torch.device("cpu")
PRECISION = resolve_precision("auto", CPU)


class Noise(torch.utils.data.Dataset):
    def __init__(self, size: int):
        self.images, self.labels = torch.randn(size, 3, 96, 96), torch.randint(CLASSES, (size,))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])


def dense() -> nn.Module:
    return timm.create_model("deit_tiny_patch16_224", img_size=96, num_classes=CLASSES)


def training_step() -> Callable[[], None]:
    model, data = dense().train(), Noise(BATCH)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        with autocast(PRECISION, CPU):
            logits = model(data.images)
        F.cross_entropy(logits.float(), data.labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def mask_step(name: str) -> Callable[[], None]:
    """One call of the real ``learn_masks`` for four steps, without the display; a quarter of its time is a step."""
    model, data, config = dense(), Noise(BATCH), preset(name).masks
    config.steps = 4
    masks = xpruner.ClassMasks(xpruner.find_units(model), CLASSES, config.rank, config.init)
    return lambda: learn_masks(model, masks, data, config, LoopOptions(BATCH, precision=PRECISION)) and None


STEPS = {
    "training": (training_step, 1),
    "paper": (lambda: mask_step("paper"), 4),
    "default": (lambda: mask_step("default"), 4),
}


def milliseconds(steps: dict[str, tuple[Callable[[], None], int]], rounds: int = ROUNDS) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, (step, repeats) in steps.items():
            start = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - start) * 1000 / repeats)
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def peak_megabytes(name: str) -> float:
    code = f"import speed; step = speed.STEPS[{name!r}][0](); step(); step(); print(speed.peak())"
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    return float(result.stdout)


def peak() -> float:
    """This program's own high-water mark; getrusage would count what it inherited from its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def surgery(name: str) -> float:
    model = timm.create_model(name)
    units = xpruner.find_units(model)
    scores = {group.key: torch.rand(group.size) for group in units}
    plan = xpruner.plan_from_scores(units, scores, xpruner.Budget(0.5))
    return milliseconds({name: (lambda: xpruner.apply(model, plan) and None, 1)})[name]


def search_epochs() -> dict[str, float]:
    """The default search on DeiT-tiny at half the MACs, rotating the heads included, in epochs of plain training.

    In CPU seconds of this process, which other work on the machine changes little. What the images show does not
    matter for the cost, so these are noise.
    """
    config = replace(preset("default"), budget="0.5", precision=PRECISION)
    data = Noise(config.data.calibration_size)
    calibration = list(torch.utils.data.DataLoader(data, BATCH))
    start = time.process_time()
    model = rotate_heads(dense(), calibration, config.precision)
    units = xpruner.find_units(model, kinds_for(config, model))
    problem = Problem(model, units, data, calibration, CLASSES, xpruner.Budget.parse("0.5"), config)
    find_method("xpruner")(problem)
    search = time.process_time() - start
    step, times = training_step(), []
    for _ in range(ROUNDS):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    epoch = statistics.median(times) * 50_000 / BATCH
    return {"search_cpu_s": search, "training_epoch_cpu_s": epoch, "search_in_epochs": search / epoch}


def seconds(*command: str) -> float:
    times = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "speed.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    source = provenance()
    step_ms = milliseconds({name: (make(), repeats) for name, (make, repeats) in STEPS.items()})
    megabytes = {name: peak_megabytes(name) for name in STEPS}
    python = sys.executable
    record = {
        "command": "python benchmarks/speed.py",
        **source,
        "step_ms": step_ms,
        "step_ratio": {name: ms / step_ms["training"] for name, ms in step_ms.items()},
        "peak_mb": megabytes,
        "peak_ratio": {name: mb / megabytes["training"] for name, mb in megabytes.items()},
        "apply_ms": {name: surgery(name) for name in ("deit_tiny_patch16_224", "deit_base_patch16_224")},
        **search_epochs(),
        "help_s": seconds(str(Path(python).parent / "xpruner"), "--help"),
        "import_beyond_torch_s": seconds(python, "-c", "import torch, xpruner") - seconds(python, "-c", "import torch"),
        "environment": environment(PRECISION),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
