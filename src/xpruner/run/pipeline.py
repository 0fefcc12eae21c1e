"""A whole run over one directory: every stage that the directory does not hold yet, in the order of the method."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xpruner.config import RunConfig
from xpruner.config.files import expanded
from xpruner.data import Splits
from xpruner.data.by_class import absent
from xpruner.data.overview import overview
from xpruner.errors import UsageError
from xpruner.measure.latency import measure_latency
from xpruner.methods import find_method
from xpruner.methods._outcome_files import DENSE_MASKS, MASKS, read_masks, write_masks
from xpruner.models.about import warn_of_accuracy
from xpruner.models.checkpoint import load, save
from xpruner.plan.plan import Plan
from xpruner.run import stages
from xpruner.run.environment import environment
from xpruner.run.finished import UNSEEN, remember_data
from xpruner.run.folder import Run
from xpruner.run.identity import check_identity, note_identity
from xpruner.run.locks import working_in
from xpruner.run.setup import Setup, check_options
from xpruner.run.tracking import Tracker

log = logging.getLogger("xpruner")


@dataclass
class PruneResult:
    """What a run hands back.

    Attributes:
        model: The pruned, compensated and fine-tuned model, in eval mode.
        plan: Which units were kept.
        masks: (classes, units) by group key; empty for a method without masks.
        metrics: The figures of every stage, as in ``metrics.json``.
        folder: The run directory.
    """

    model: nn.Module
    plan: Plan
    masks: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()


def run_pipeline(
    config: RunConfig, model: nn.Module | None = None, kwargs: Mapping[str, Any] | None = None
) -> PruneResult:
    """Runs every stage that the run directory does not hold yet.

    Args:
        config: The whole run.
        model: The dense model, when it is at hand; else the config says which. It stays as it is.
        kwargs: The arguments of ``timm.create_model`` that made it, where they cannot be deduced from it.

    Raises:
        UsageError: If the configuration cannot be met, before anything is computed where that can be known; or another
            program works in the run directory.
        XPrunerError: If a stage fails; what was computed lies in the run directory.
    """
    config = expanded(config)
    check_options(config)
    if not find_method(config.method).saveable:
        raise UsageError(f"The method {config.method!r} makes models that cannot be saved; `xpruner compare` runs it.")
    with working_in(Path(config.output)), Tracker(config.output) as tracker:
        setup = Setup.load(config, model, kwargs)
        identity = setup.identity()
        check_identity(Path(config.output), identity)
        run = Run(config)
        note_identity(run.folder, identity)
        tracker.open()
        remember_data(config)
        return _Pipeline(setup.replaced(config=run.config), run, tracker).run()


class _Pipeline:
    """The stages over one run directory; each reads what the ones before it left."""

    def __init__(self, setup: Setup, run: Run, tracker: Tracker):
        self.setup, self.run_folder, self.tracker = setup, run, tracker

    def run(self) -> PruneResult:
        """Runs the stages in the order of the method."""
        run = self.run_folder
        run.stage("dense", self._dense)
        self.setup = self.setup.replaced(dense=load(run.folder / "dense"))  # rotated, where its method asks for that
        run.stage("search", self._search)
        plan = Plan.load(run.folder / "plan.json", self.setup.units, run.remedy)
        for stage in (self._pruned, self._compensated, self._finetuned):
            run.stage(stage.__name__.strip("_"), partial(stage, plan))
        pruned = load(run.folder / "pruned")
        if self.setup.config.latency:
            run.stage("latency", lambda: self._latency(pruned))
        run.stage("environment", lambda: environment(self.setup.config.precision))
        path = run.folder / MASKS
        classes = self.setup.data.num_classes
        masks = read_masks(path, self.setup.units, classes, run.remedy) if path.exists() else {}
        return PruneResult(pruned, plan, masks, run.metrics, run.folder)

    def _dense(self) -> dict[str, Any]:
        setup = self.setup = stages.rotated(self.setup)
        figures = stages.figures(setup, setup.dense)
        warn_of_accuracy(setup.dense, figures["top1"], len(setup.data.measured))
        self._save(setup.dense, self.run_folder.folder / "dense", figures["top1"])
        return {**figures, "data": overview(setup.data)}

    def _search(self) -> dict[str, Any]:
        start = time.perf_counter()
        state, on_step = self.run_folder.state("search"), self.tracker.scalars("search")
        outcome = stages.search(self.setup, state, on_step)
        write_masks(self.run_folder.folder / MASKS, outcome.masks)
        write_masks(self.run_folder.folder / DENSE_MASKS, outcome.dense_masks)
        if outcome.model is not None:
            self._save(outcome.model, self._found)
        outcome.plan.save(self.run_folder.folder / "plan.json")
        missing = unseen_classes(self.setup.config, self.setup.data)
        unseen = {UNSEEN: missing} if missing else {}
        return {**outcome.figures, **unseen, "seconds": time.perf_counter() - start}

    @property
    def _found(self) -> Path:
        """Where the pruned model of a search lies that changes weights."""
        return self.run_folder.state("found")

    def _as_found(self, plan: Plan) -> nn.Module:
        return load(self._found) if self._found.exists() else stages.cut(self.setup, plan)

    def _pruned(self, plan: Plan) -> dict[str, Any]:
        figures = stages.figures(self.setup, self._as_found(plan))
        error = stages.budget_error(self.setup, figures)
        reached, asked = figures[self.setup.budget.resource], self.setup.budget.target(self.setup.units)
        return {**figures, "budget_asked": asked, "budget_reached": reached, "budget_error": error}

    def _compensated(self, plan: Plan) -> dict[str, Any]:
        start = time.perf_counter()
        model = self._as_found(plan)
        state = self.run_folder.state("healed")
        better = stages.compensated(self.setup, model, plan, self.run_folder.metrics["search"], state)
        taken = stages.is_better(self.setup, better, model)
        seconds = time.perf_counter() - start
        self._save(better if taken else model, self.run_folder.state("compensated"))
        return {**stages.figures(self.setup, better), "taken": taken, "seconds": seconds}

    def _finetuned(self, plan: Plan) -> dict[str, Any]:
        start = time.perf_counter()
        state, on_step = self.run_folder.state("finetune"), self.tracker.scalars("finetune")
        model = stages.finetuned(self.setup, load(self.run_folder.state("compensated")), plan, state, on_step)
        seconds = time.perf_counter() - start
        figures = stages.figures(self.setup, model)
        self._save(model, self.run_folder.folder / "pruned", figures["top1"])
        return {**figures, "seconds": seconds}

    def _latency(self, pruned: nn.Module) -> dict[str, Any]:
        models = {"dense": self.setup.dense, "pruned": pruned}
        table = measure_latency(models, self.setup.units.input_size, self.setup.config.latency, max_seconds=20.0)
        return {name: {str(batch): ms for batch, ms in row.items()} for name, row in table.items()}

    def _save(self, model: nn.Module, folder: Path, top1: float | None = None) -> None:
        setup = self.setup
        save(model, folder, kwargs=setup.kwargs, input_spec=setup.spec, class_names=setup.data.class_names, top1=top1)


def unseen_classes(config: RunConfig, data: Splits) -> list[int]:
    """Returns the classes without an image among those that a method's masks are made of, and logs what to do."""
    if not find_method(config.method).learns_masks:
        return []
    seen = data.train if config.masks.steps else data.calibration
    unseen = absent(seen.labels, data.num_classes)
    if more := len(unseen) - len(absent(data.train.labels, data.num_classes)):
        log.warning(
            "%d of %d classes have training images, but none among the %d for calibration, so that their masks are the "
            "mean of the others'; raise data.calibration_size.", more, data.num_classes, len(seen.labels),
        )  # fmt: skip
    return unseen
