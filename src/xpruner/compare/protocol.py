"""The protocol: what one run of a comparison does, the same for every method."""

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xpruner.compare.study import DENSE, Trial
from xpruner.compensation.fit import compensate
from xpruner.config import RunConfig
from xpruner.data import InputSpec, Splits, calibration_batches, class_names, load_data
from xpruner.data.overview import in_one_line, overview
from xpruner.errors import XPrunerError
from xpruner.measure.macs import count_macs, count_params
from xpruner.measure.resources import measured
from xpruner.methods import Outcome, Problem, find_method
from xpruner.methods._outcome_files import read_outcome, write_outcome
from xpruner.methods._registry import kinds_for, prepared
from xpruner.methods.xpruner.guard_images import guarded_calibration
from xpruner.models import load_model, load_teacher
from xpruner.models.about import known_classes, warn_of_accuracy
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.run.environment import environment
from xpruner.run.folder import comparable
from xpruner.surgery import apply
from xpruner.training import finetune, predict
from xpruner.training.features import kept_stream
from xpruner.units import find_units

log = logging.getLogger("xpruner")

TOLERANCE = 0.01
"""How far, as a share of the budget, a model's cost by torch's counter may lie from it."""


@dataclass(frozen=True)
class Bench:
    """What the runs of one seed share.

    Attributes:
        dense: The dense model.
        data: Its images.
        calibration: Batches of training images.
        images: Those that accuracy is measured on: held out for tuning where there are such, else the test images.
        dense_says: The dense model's classes for them.
        labels: Theirs.
    """

    dense: nn.Module
    data: Splits
    calibration: list[tuple[Tensor, Tensor]]
    images: Any
    dense_says: Tensor
    labels: Tensor


def set_up(config: RunConfig) -> Bench:
    """Loads the dense model and its images, and asks it about them.

    Raises:
        UsageError: If there is no such model, or there are no such images.
    """
    classes = config.model.num_classes or len(class_names(config.data))
    dense = load_model(config.model, classes)[0].eval()
    data = load_data(config.data, InputSpec.of(dense), config.seed, known_classes(dense))
    log.info("%s", in_one_line(overview(data), InputSpec.of(dense)))
    calibration = calibration_batches(data.calibration, config.data.batch_size)
    images = data.test if data.val is None else data.val
    said, labels = predict(dense, images, **_forward(config))
    warn_of_accuracy(dense, (said == labels).float().mean().item(), len(labels))
    return Bench(dense, data, calibration, images, said, labels)


def run_one(bench: Bench, run: Trial, folder: Path) -> dict[str, Any]:
    """Searches, cuts, compensates and fine-tunes, and measures after each; label-free, by torch's own counter.

    Args:
        bench: What the runs of this seed share; it stays as it is.
        run: What to do.
        folder: Of the state of an unfinished run.

    Returns:
        The result, as it is written.

    Raises:
        XPrunerError: If a stage fails, or the model's cost is not the budget.
    """
    return _Protocol(bench, run, folder).run()


class _Protocol:
    """One run; each stage leaves its figures in ``stages``."""

    def __init__(self, bench: Bench, run: Trial, folder: Path):
        self.bench, self.asked, self.config, self.folder = bench, run, run.config, folder
        self.resumed = any((folder / stage).exists() for stage in ("search", "outcome", "finetune"))
        self.teacher = load_teacher(self.config.finetune, bench.dense)
        self.budget = Budget.parse(self.config.budget, self.config.round_to)
        self.stages: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """Runs the stages in order."""
        self.stages["dense"] = self._figures(self.bench.dense)
        outcome = self._search()
        model = self._as_found(outcome)
        start = self._compensated(model, outcome)
        self._finetuned(start, outcome.plan)
        return {
            "label": self.asked.label,
            "length": self.asked.length,
            "config": comparable(self.config),
            "stages": self.stages,
            "figures": outcome.figures,
            "keep": {key: [len(kept), outcome.plan.sizes[key]] for key, kept in outcome.plan.keep.items()},
            "images": len(self.bench.images),
            "resumed": self.resumed,
            "environment": environment(self.config.precision),
        }

    def _search(self) -> Outcome:
        """Rotates heads where their dimensions are units, and searches; the time of both is the search's."""
        figures: dict[str, Any] = {}
        with measured(figures):
            if self.config.method == DENSE:
                self.dense, self.units = self.bench.dense, find_units(self.bench.dense)
                return Outcome(Plan.of(self.units, {}, DENSE))
            self.dense = prepared(self.bench.dense, self.bench.calibration, self.config)
            self.units = find_units(self.dense, kinds_for(self.config, self.dense))
            outcome = read_outcome(self.folder / "outcome") or find_method(self.config.method)(self._problem())
        self.stages["search"] = figures
        if outcome.model is None:
            write_outcome(self.folder / "outcome", outcome)
        return outcome

    def _problem(self) -> Problem:
        return Problem(
            model=self.dense,
            units=self.units,
            train=self.bench.data.train,
            calibration=self.bench.calibration,
            num_classes=self.bench.data.num_classes,
            budget=self.budget,
            config=self.config,
            state_dir=self.folder / "search",
        )

    def _as_found(self, outcome: Outcome) -> nn.Module:
        """Measures the dense weights under the plan and, where the search has changed them, the model it found."""
        if self.config.method == DENSE:
            return copy.deepcopy(self.dense)
        if outcome.model is None:
            model = apply(self.dense, outcome.plan)
            self.stages["cut"] = self._figures(model)
        else:
            model = outcome.model
            if outcome.plan.keep:
                self.stages["cut"] = self._figures(apply(self.dense, outcome.plan))
            self.stages["found"] = self._figures(model)
        self._check_cost(model)
        return model

    def _check_cost(self, model: nn.Module) -> None:
        by_macs = self.budget.resource == "macs"
        reached = count_macs(model, self.units.input_size) if by_macs else count_params(model)
        asked = self.budget.target(self.units)
        if abs(reached / asked - 1) > TOLERANCE:
            raise XPrunerError(f"{self.asked.name} has a cost of {reached:,.0f} where {asked:,.0f} was asked for.")

    def _compensated(self, model: nn.Module, outcome: Outcome) -> nn.Module:
        """Returns what fine-tuning starts from: the compensated model, unless it does worse on training images."""
        if not outcome.plan.keep or self.config.compensate.mode == "none":
            return model
        figures: dict[str, Any] = {}
        with measured(figures):
            images = guarded_calibration(outcome.figures, self.bench.data.train, self.bench.calibration, self.config)
            better = compensate(
                copy.deepcopy(model), self.dense, outcome.plan, images, self.config.compensate,
                precision=self.config.precision,
            )  # fmt: skip
        self.stages["compensated"] = {**self._figures(better), **figures}
        helps = self._right(better) >= self._right(model)
        self.stages["compensated"]["taken"] = helps
        return better if helps else model

    def _right(self, model: nn.Module) -> int:
        """Counts what a model gets right of the training images behind those of calibration, or of the latter alone."""
        data = self.bench.data
        seen, plain = len(data.calibration), data.train.plain(2 * len(data.calibration))
        images = plain.only(range(seen, len(plain))).readable() if len(plain) > seen else plain
        predicted, labels = predict(model, images, **_forward(self.config))
        return int((predicted == labels).sum())

    def _finetuned(self, model: nn.Module, plan: Plan) -> None:
        recipe = self.config.finetune
        if recipe.steps == 0 or (recipe.steps is None and recipe.epochs == 0):
            return
        figures: dict[str, Any] = {}
        with measured(figures):
            tuned = finetune(
                model,
                self.teacher,
                self.bench.data.train,
                recipe,
                batch_size=self.config.data.batch_size,
                workers=self.config.data.workers,
                seed=self.config.seed,
                precision=self.config.precision,
                stream=kept_stream(self.dense, plan),
                state_dir=self.folder / "finetune",
            )
        self.stages["finetuned"] = {**self._figures(tuned), **figures}

    def _figures(self, model: nn.Module) -> dict[str, Any]:
        bench = self.bench
        said = bench.dense_says if model is bench.dense else predict(model, bench.images, **_forward(self.config))[0]
        return {
            "top1": (said == bench.labels).float().mean().item(),
            "agreement": (said == bench.dense_says).float().mean().item(),
            "macs": count_macs(model, tuple(bench.images[0][0].shape)),
            "params": count_params(model),
        }


def _forward(config: RunConfig) -> dict[str, Any]:
    return {
        "batch_size": max(config.data.batch_size, 256),
        "workers": config.data.workers,
        "precision": config.precision,
    }
