"""Which models can be pruned, proven: every attention model of timm, and the vision models of transformers.

    python benchmarks/zoo.py --workers 2          # benchmarks/results/zoo.json and docs/coverage.md
    python benchmarks/zoo.py --only 'swin*' --show

Each model is built small, its parameters are drawn again, and for the kinds of unit that it holds: a random plan, the
gated output against the output of the cut model (1e-5 of the largest output in float32, or 1e-10 in float64), gates of
one sample against the other, MACs and parameters as predicted against torch's counter, one training step, and save and
load, bit for bit.
"""

import argparse
import concurrent.futures
import copy
import fnmatch
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import xpruner  # noqa: F401, before timm: it declares what torchvision lacks beside a CPU build of torch

# isort: split
import timm
import torch
import transformers
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import tiny_transformers
import zoo_coverage
import zoo_models

from xpruner.data.spec import InputSpec
from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs, count_params
from xpruner.models.checkpoint import load, save
from xpruner.plan.budget import MINIMA
from xpruner.plan.plan import Plan
from xpruner.runtime.outputs import tensors_of
from xpruner.surgery import apply
from xpruner.units import DEFAULT_KINDS, KINDS, Units, find_units
from xpruner.units.gates import gating

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5
ROUNDING = 1e-10
"""In float64, for the few models whose drawn weights let float32's rounding errors grow beyond the tolerance."""
COST = 2e-3
"""Heads of CoaT cost unequally, by the windows of their position encodings; all other models are exact."""
SIZED = {"segformer": (3, 32, 32), "detr": (3, 64, 64)}
"""Images of the models of transformers whose configuration does not hold it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="pattern of model names")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print the rows, write nothing")
    args = parser.parse_args()
    jobs = [("timm", name, args.seed) for name in zoo_models.attention_models()]
    jobs += [("transformers", name, args.seed) for name in tiny_transformers.MODELS]
    jobs = [job for job in jobs if fnmatch.fnmatch(job[1], args.only)]
    start, rows = time.perf_counter(), []
    with concurrent.futures.ProcessPoolExecutor(args.workers, initializer=_quiet) as pool:
        for row in pool.map(examine, *zip(*jobs, strict=True)):
            rows.append(row)
            if args.show or row["failed"]:
                print(json.dumps(row), flush=True)
    print(f"{len(rows)} models in {time.perf_counter() - start:.0f} s, {sum(bool(r['failed']) for r in rows)} failed")
    if not args.show:
        versions = {"timm": timm.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
        zoo_coverage.write({"command": zoo_coverage.COMMAND, "seed": args.seed, "versions": versions, "models": rows})
    sys.exit(any(row["failed"] for row in rows))


def _quiet() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def examine(library: str, name: str, seed: int) -> dict[str, Any]:
    """Returns a row of the table: which kinds the model holds, which are refused and why, and what failed if anything.

    Args:
        library: ``timm`` or ``transformers``.
        name: Of the model there.
        seed: Of its weights and of its plans.
    """
    torch.manual_seed(seed)
    start = time.perf_counter()
    if library == "timm":
        kwargs: dict[str, Any] | None = zoo_models.small_kwargs(name)
        size, reduced = zoo_models.image_size(name), zoo_models.how_reduced(name)
        model = timm.create_model(name, pretrained=False, **kwargs)
    else:
        kwargs, reduced = None, "built from a tiny configuration"
        model = tiny_transformers.tiny(name)
        size = next((size for part, size in SIZED.items() if part in name), None) or (3, 32, 32)
    stir(model)
    supported, refused = kinds_of(model.eval(), size)
    row = {"library": library, "name": name, "class": type(model).__name__, "reduced": reduced}
    failed = []
    for kinds in dict.fromkeys((tuple(k for k in DEFAULT_KINDS if k in supported), tuple(supported))):
        if kinds:
            failed += [f"{'+'.join(kinds)}: {what}" for what in prove(model, find_units(model, kinds, size), kwargs)]
    seconds = round(time.perf_counter() - start, 2)
    return {**row, "kinds": supported, "refused": refused, "failed": failed, "seconds": seconds}


def kinds_of(model: nn.Module, size: tuple[int, int, int]) -> tuple[dict[str, int], dict[str, str]]:
    """Returns how many groups of each kind a model holds, and why the other kinds are refused; absent ones are left."""
    supported, refused = {}, {}
    for kind in KINDS:
        try:
            supported[kind] = len(find_units(model, [kind], size))
        except UsageError as error:
            if "holds no unit" not in str(error) or kind in DEFAULT_KINDS:
                refused[kind] = str(error)
    return supported, refused


def stir(model: nn.Module) -> None:
    """Draws all parameters again, so that every unit matters: fresh ones hold zeros, and scales of one millionth."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and min(len(parameter), parameter[0].numel()) > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            else:
                parameter.normal_(1, 0.2)


def random_plan(units: Units) -> Plan:
    """Returns a plan that keeps about two thirds of every group, and of the blocks all but one."""
    keep = {}
    blocks = [group.key for group in units if group.kind == "block"]
    skipped = blocks[int(torch.randint(len(blocks), ()))] if blocks else None
    for group in units:
        least = max(min(MINIMA[group.kind], group.size), (2 * group.size + 2) // 3)
        count = 0 if group.key == skipped else least
        keep[group.key] = torch.randperm(group.size)[:count].tolist()
    return Plan.of(units, keep)


def prove(model: nn.Module, units: Units, kwargs: dict[str, Any] | None) -> list[str]:
    """Returns in words what does not hold of a model and a random plan; nothing when all is well."""
    plan = random_plan(units)
    found = []
    try:
        pruned = apply(model, plan)
        found += _same_outputs(model, pruned, units, plan)
        found += _same_cost(pruned, units, plan)
        found += _comes_back(pruned, units.input_size, kwargs)
    except Exception as error:  # whatever breaks is a row of the table, and the sweep goes on
        found.append(f"{type(error).__name__}: {error}")
    return found


def _same_outputs(model: nn.Module, pruned: nn.Module, units: Units, plan: Plan) -> Iterator[str]:
    images = torch.randn(2, *units.input_size)
    gates = plan.gates()
    gated = _gated(model, images, units, gates)
    open_first = {key: torch.stack([torch.ones_like(gate), gate]) for key, gate in gates.items()}
    with gating(model, units, open_first):
        mixed = outputs(model, images)
    dense = outputs(model, images)
    error = distance(outputs(pruned, images), gated)
    if error > TOLERANCE:
        wide = images.double()
        exact = distance(
            outputs(copy.deepcopy(pruned).double(), wide), _gated(copy.deepcopy(model).double(), wide, units, gates)
        )
        if exact > ROUNDING:
            yield f"the gated and the cut model differ by {error:.1e}, and in float64 by {exact:.1e}"
    if distance(dense, gated) < 10 * TOLERANCE:
        yield "the plan changes nothing, so nothing is shown"
    if distance([x[:1] for x in mixed], [x[:1] for x in dense]) > TOLERANCE:
        yield "a gate of one sample acts on another"
    if distance([x[1:] for x in mixed], [x[1:] for x in gated]) > TOLERANCE:
        yield "a gate of one sample does not act on it alone"


def _gated(model: nn.Module, images: torch.Tensor, units: Units, gates: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with gating(model, units, gates):
        return outputs(model, images)


def _same_cost(pruned: nn.Module, units: Units, plan: Plan) -> Iterator[str]:
    counts = {"macs": count_macs(pruned, units.input_size), "params": count_params(pruned)}
    for resource, count in counts.items():
        if abs(plan.cost[f"{resource}_pruned"] / count - 1) > COST:
            yield f"{plan.cost[f'{resource}_pruned']:.0f} {resource} predicted, {count:.0f} counted"


def _comes_back(pruned: nn.Module, size: tuple[int, int, int], kwargs: dict[str, Any] | None) -> Iterator[str]:
    """A training step, and a file: what was learned comes back bit for bit."""
    pruned.train()
    optimizer = torch.optim.SGD(pruned.parameters(), 1e-6)
    loss = sum(x.square().mean() for x in tensors_of(pruned(torch.randn(2, *size))))
    loss.backward()
    optimizer.step()
    if not all(p.grad is None or torch.isfinite(p.grad).all() for p in pruned.parameters()):
        yield "a gradient is not finite"
    pruned.eval()
    with tempfile.TemporaryDirectory() as folder:
        save(pruned, folder, kwargs=kwargs, input_spec=replace(InputSpec.of(pruned), size=size[1:]))
        images = torch.randn(1, *size)
        pairs = zip(outputs(load(folder), images), outputs(pruned, images), strict=True)
        if not all(torch.equal(loaded, saved) for loaded, saved in pairs):
            yield "the loaded model computes something else"


def outputs(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Returns the tensors that a model puts out for each image, with the same randomness every time."""
    torch.manual_seed(0)
    with torch.no_grad():
        return [tensor for tensor in tensors_of(model(images)) if tensor.ndim]


def distance(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Returns the largest difference, relative to the largest number of each tensor."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(some, others, strict=True))


if __name__ == "__main__":
    main()
