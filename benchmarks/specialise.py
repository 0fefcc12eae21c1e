"""Models for chosen classes from a finished run, by several methods at the same budget, before any training.

    python benchmarks/specialise.py runs/cifar03 --budget 0.3 --counts 2,3,5 --draws 3 --seed 0 \
        --output benchmarks/results/specialise

For each count class sets are drawn with the seed, and each set is measured on the run's evaluation images of these
classes, with every classifier cut to them. One JSON a set, which is not computed again while its options are the same,
and a Markdown table of means over the draws beside them.

dense                    the dense model, as the reference
specialise               xpruner.run.specialise
masks                    the same by the run's masks alone, without rounds
class-agnostic           the plan of the same masks for all classes, compensated on the images that specialise gets
class-agnostic, general  the same plan, compensated on images of all classes, as the run is
random                   every layer keeps the same share, drawn by chance; compensated as specialise is
NuWa                     benchmarks/nuwa.py
NuWa, compensated        its plan, compensated as specialise is
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from nuwa import Found, nuwa
from table import markdown, percent
from torch import nn

from xpruner.compare.results import provenance
from xpruner.masks.class_masks import reduce_classes
from xpruner.methods import Problem, find_method
from xpruner.models.classifier import keep_classes
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.run import stages
from xpruner.run.environment import environment
from xpruner.run.finished import FinishedRun, open_run
from xpruner.run.folder import comparable
from xpruner.run.setup import Setup
from xpruner.run.specialise import plan_for, setup_for

HEAD = ["classes", "method", "MACs", "top-1 cut", "top-1", "least", "below dense", "s"]


def main() -> None:
    args = parse()
    bench = Bench(open_run(args.run), Budget.parse(args.budget), args.rounds)
    args.output.mkdir(parents=True, exist_ok=True)
    records = []
    for count in args.counts:
        for number, labels in enumerate(draws(count, args.draws, len(bench.run.data.class_names), args.seed)):
            records.append(measured(bench, labels, args.seed + number, args))
    text = table(records)
    (args.output / f"table_{args.budget}.md").write_text(text + "\n")
    print(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory of a method with masks, of a ViT of timm")
    parser.add_argument("--budget", default="0.3", help="of every method")
    parser.add_argument("--counts", default="2,3,5", type=numbers, help="how many classes a set has")
    parser.add_argument("--draws", type=int, default=3, help="sets for each count")
    parser.add_argument("--rounds", type=int, default=2, help="of specialise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "specialise")
    args = parser.parse_args()
    args.commit = provenance()["commit"]  # of the code that is loaded now
    return args


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def draws(count: int, sets: int, classes: int, seed: int) -> list[list[int]]:
    """Returns different sets of ``count`` classes; the first ones are the same however many are asked for."""
    every = list(combinations(range(classes), count))
    order = np.random.default_rng((seed, count)).permutation(len(every))
    return [list(every[number]) for number in order[:sets]]


@dataclass(frozen=True)
class Made:
    """What a method made of a set of classes.

    Attributes:
        cut: Before compensation.
        model: After it.
        before: Seconds of what was made once for several rows.
    """

    cut: nn.Module
    model: nn.Module
    before: float = 0.0


class Bench:
    """What all class sets share."""

    def __init__(self, run: FinishedRun, budget: Budget, rounds: int):
        self.run, self.budget, self.rounds = run, budget, rounds

    @cached_property
    def agnostic(self) -> Plan:
        """The plan of the run's masks for all classes."""
        kind = self.run.config.thresholds.importance
        return plan_from_scores(
            self.run.units, {k: reduce_classes(m, kind) for k, m in self.run.masks.items()}, self.budget
        )

    @cached_property
    def general(self) -> Made:
        """The class-agnostic model with all its classes, compensated on images of all."""
        start = time.perf_counter()
        setup = setup_for(self.run, range(self.run.data.num_classes))
        model = compensated(setup, self.agnostic)
        return Made(stages.cut(setup, self.agnostic), model, time.perf_counter() - start)


class Task:
    """A set of classes, with what all methods share."""

    def __init__(self, bench: Bench, labels: list[int], seed: int):
        self.bench, self.run, self.labels, self.seed = bench, bench.run, labels, seed
        self.setup = setup_for(self.run, labels)
        self.dense, self.images, self.calibration = self.setup.dense, self.setup.data.measured, self.setup.calibration

    @cached_property
    def nuwa(self) -> tuple[Found, float]:
        """What NuWa's recipe finds, and the seconds it takes."""
        start, config = time.perf_counter(), self.run.config
        train = self.run.data.train
        theirs = torch.isin(train.labels, torch.tensor(self.labels)).nonzero().flatten().tolist()
        found = nuwa(
            self.run.dense, train.only(theirs), self.calibration, self.bench.budget,
            seed=self.seed, precision=config.precision,
        )  # fmt: skip
        return found, time.perf_counter() - start

    def by_plan(self, plan: Plan) -> Made:
        return Made(stages.cut(self.setup, plan), compensated(self.setup, plan))

    def figures(self, model: nn.Module) -> dict[str, float]:
        return stages.figures(self.setup, model)


def compensated(setup: Setup, plan: Plan) -> nn.Module:
    return stages.compensated(setup, stages.cut(setup, plan), plan)


def specialised(task: Task) -> Made:
    return task.by_plan(plan_for(task.run, task.labels, task.bench.budget, task.bench.rounds))


def by_masks(task: Task) -> Made:
    return task.by_plan(plan_for(task.run, task.labels, task.bench.budget, rounds=0))


def agnostic(task: Task) -> Made:
    return task.by_plan(task.bench.agnostic)


def general(task: Task) -> Made:
    whole = task.bench.general
    return Made(keep_classes(whole.cut, task.labels), keep_classes(whole.model, task.labels), whole.before)


def random(task: Task) -> Made:
    config = replace(task.run.config, seed=task.seed)
    problem = Problem(task.dense, task.run.units, task.images, [], len(task.labels), task.bench.budget, config)
    return task.by_plan(find_method("random")(problem).plan)


def by_nuwa(task: Task) -> Made:
    found, seconds = task.nuwa
    return Made(keep_classes(found.cut, task.labels), keep_classes(found.refitted, task.labels), seconds)


def nuwa_compensated(task: Task) -> Made:
    found, seconds = task.nuwa
    dense = keep_classes(found.dense, task.labels)
    setup = task.setup.replaced(dense=dense)
    return Made(stages.cut(setup, found.plan), compensated(setup, found.plan), seconds)


METHODS: dict[str, Callable[[Task], Made]] = {
    "specialise": specialised,
    "masks": by_masks,
    "class-agnostic": agnostic,
    "class-agnostic, general": general,
    "random": random,
    "NuWa": by_nuwa,
    "NuWa, compensated": nuwa_compensated,
}


def measured(bench: Bench, labels: list[int], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the record of a class set, and writes it, unless it lies there with the same options."""
    names = [bench.run.data.class_names[label] for label in labels]
    options = {"classes": names, "budget": args.budget, "rounds": args.rounds, "run": comparable(bench.run.config)}
    path = args.output / f"{args.budget}_{'-'.join(names)}.json"
    if path.exists() and json.loads(path.read_text())["options"] == options:
        return json.loads(path.read_text())
    task = Task(bench, labels, seed)
    dense = task.figures(task.dense)
    rows = {name: row(task, make, dense["macs"]) for name, make in METHODS.items()}
    record = {
        "command": f"python {' '.join(sys.argv)}",
        "commit": args.commit,
        "seed": seed,
        "data": bench.run.config.data.name,
        "images": f"{len(task.images)} {'test' if bench.run.data.val is None else 'held-out training'} images",
        "calibration": f"{sum(len(labels) for _, labels in task.calibration)} training images of these classes",
        "options": options,
        "dense": dense,
        "methods": rows,
        "environment": environment(bench.run.config.precision),
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(path, file=sys.stderr)
    return record


def row(task: Task, make: Callable[[Task], Made], dense: float) -> dict[str, float]:
    """Returns the figures of a method: top-1 cut and compensated, cost as torch counts it, and seconds."""
    start = time.perf_counter()
    made = make(task)
    seconds = time.perf_counter() - start
    after = task.figures(made.model)
    return {
        "cut": task.figures(made.cut)["top1"],
        **after,
        "macs_share": after["macs"] / dense,
        "seconds": seconds + made.before,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Returns Markdown: means over the sets of as many classes; the least top-1 of a set; points below the dense."""
    rows = []
    for count, found in groupby(records, key=lambda record: len(record["options"]["classes"])):
        sets = list(found)
        top1 = [record["dense"]["top1"] for record in sets]
        rows.append([str(count), "dense", "1.000", "", percent(fmean(top1)), percent(min(top1)), "", ""])
        for name in METHODS:
            of = [record["methods"][name] for record in sets]
            after = [each["top1"] for each in of]
            rows.append([
                str(count),
                name,
                f"{fmean(each['macs_share'] for each in of):.3f}",
                percent(fmean(each["cut"] for each in of)),
                percent(fmean(after)),
                percent(min(after)),
                percent(fmean(top1) - fmean(after)),
                f"{fmean(each['seconds'] for each in of):.0f}",
            ])  # fmt: skip
    return markdown(HEAD, rows)


if __name__ == "__main__":
    main()
