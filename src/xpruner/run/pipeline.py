"""The stages in order over one run directory: masks, thresholds, plan, surgery, compensation, fine-tuning."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xpruner.compensation.fit import compensate
from xpruner.config import RunConfig
from xpruner.config.checks import check
from xpruner.config.files import expanded
from xpruner.data import ImageDataset, InputSpec, Splits, calibration_batches, class_names, load_data
from xpruner.data.by_class import absent
from xpruner.data.fingerprint import fingerprints
from xpruner.data.overview import in_one_line, overview
from xpruner.errors import UsageError
from xpruner.measure.latency import compare_latency
from xpruner.measure.macs import count_macs, count_params
from xpruner.methods import Problem, find_method
from xpruner.methods._outcome_files import DENSE_MASKS, MASKS, read_masks, write_masks
from xpruner.methods._registry import check_compensation, kinds_for, prepared
from xpruner.methods.xpruner.guard_images import guarded_calibration, to_measure
from xpruner.models import load_model, load_teacher
from xpruner.models.about import known_classes, warn_of_accuracy
from xpruner.models.checkpoint import arguments_of, load, save
from xpruner.models.own_copy import own_copy
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.run.environment import environment
from xpruner.run.finished import UNSEEN, remember_data
from xpruner.run.folder import Run
from xpruner.run.identity import Identity, check_identity, model_identity, note_identity
from xpruner.run.locks import working_in
from xpruner.run.tracking import Tracker
from xpruner.runtime.devices import accelerator
from xpruner.surgery import apply
from xpruner.training import evaluate, finetune
from xpruner.training.features import kept_stream, last_block
from xpruner.training.finetune_job import FinetuneJob
from xpruner.units import find_units

log = logging.getLogger("xpruner")


@dataclass
class PruneResult:
    """What a run hands back.

    Attributes:
        model: The pruned, compensated and fine-tuned model, in eval mode.
        plan: Which units stayed.
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
    check(config)
    if not find_method(config.method).plain:
        raise UsageError(f"The method {config.method!r} makes models that cannot be saved; `xpruner compare` runs it.")
    check_compensation(config)
    Budget.parse(config.budget, config.round_to)
    with working_in(Path(config.output)), Tracker(config.output) as tracker:
        return _Pipeline(config, tracker, model, kwargs).run()


class _Pipeline:
    """The stages over one run directory; each reads what the ones before it left.

    What can be known to be wrong is told before the directory is touched.
    """

    def __init__(self, config: RunConfig, tracker: Tracker, model: nn.Module | None, kwargs: Mapping[str, Any] | None):
        self.config, self.tracker = config, tracker
        self.kwargs: dict[str, Any] | None = None
        if model is not None:
            model = own_copy(model)
            self.kwargs = arguments_of(model, kwargs)  # once, of the dense model: a pruned one no longer tells them
        else:
            classes = config.model.num_classes or len(class_names(config.data))
            model, self.kwargs = load_model(config.model, classes)
        self.dense = model.eval()
        self.spec = InputSpec.of(self.dense)
        self.data = load_data(config.data, self.spec, config.seed, known_classes(self.dense))
        self.overview = overview(self.data)
        log.info("%s", in_one_line(self.overview, self.spec))
        self.unseen = unseen_classes(config, self.data)
        self.units = find_units(self.dense, kinds_for(config, self.dense))
        self.budget = Budget.parse(config.budget, config.round_to)
        self.teacher = load_teacher(config.finetune, self.dense)
        self._check()
        identity = self._identity()
        check_identity(Path(config.output), identity)
        self.run_folder = Run(config)
        self.config = self.run_folder.config
        note_identity(self.run_folder.folder, identity)
        tracker.open()
        remember_data(config)
        self._calibration: list[tuple[Tensor, Tensor]] | None = None

    def _identity(self) -> Identity:
        """Returns what the run belongs to."""
        models = {"model": self.dense}
        if self.teacher is not None and self.config.finetune.teacher is not None:
            models[f"teacher {self.config.finetune.teacher}"] = self.teacher
        known = {name: model_identity(model, self.spec.shape) for name, model in models.items()}
        return {**known, **fingerprints(self.data)}

    def _check(self) -> None:
        """Raises UsageError where a later stage could not work on this model and these images."""
        config = self.config
        self.budget.target(self.units)
        find_method(config.method).check(self._problem([]))
        if config.max_class_drop is not None:
            to_measure(self.data.train.labels, len(self.data.calibration), config.max_class_drop)
        data, place = config.data, accelerator()
        FinetuneJob(
            place, self.data.train, config.finetune, data.batch_size, data.workers, config.seed, config.precision
        ).check()
        if config.finetune.features:
            last_block(self.dense)

    def run(self) -> PruneResult:
        """Runs the stages in the order of the method."""
        run = self.run_folder
        run.stage("dense", self._dense)
        self.dense = load(run.folder / "dense")  # turned, where its heads' dimensions are pruned
        run.stage("search", self._search)
        plan = Plan.load(run.folder / "plan.json", self.units, run.remedy)
        run.stage("pruned", lambda: self._pruned(plan))
        run.stage("compensated", lambda: self._compensated(plan))
        run.stage("finetuned", lambda: self._finetuned(plan))
        pruned = load(run.folder / "pruned")
        if self.config.latency:
            run.stage("latency", lambda: self._latency(pruned))
        run.stage("environment", lambda: environment(self.config.precision))
        path = run.folder / MASKS
        masks = read_masks(path, self.units, self.data.num_classes, run.remedy) if path.exists() else {}
        return PruneResult(pruned, plan, masks, run.metrics, run.folder)

    def _dense(self) -> dict[str, Any]:
        dense = prepared(self.dense, self._calibration_batches(), self.config)
        figures = self._figures(dense)
        warn_of_accuracy(self.dense, figures["top1"], len(self._images()))
        self._save(dense, self.run_folder.folder / "dense", figures["top1"])
        return {**figures, "data": self.overview}

    def _search(self) -> dict[str, Any]:
        start = time.perf_counter()
        problem = replace(
            self._problem(self._calibration_batches()),
            state_dir=self.run_folder.state("search"),
            on_step=self.tracker.scalars("search"),
        )
        outcome = find_method(self.config.method)(problem)
        write_masks(self.run_folder.folder / MASKS, outcome.masks)
        write_masks(self.run_folder.folder / DENSE_MASKS, outcome.dense_masks)
        if outcome.model is not None:
            self._save(outcome.model, self._found)
        outcome.plan.save(self.run_folder.folder / "plan.json")
        unseen = {UNSEEN: self.unseen} if self.unseen else {}
        return {**outcome.figures, **unseen, "seconds": time.perf_counter() - start}

    def _problem(self, calibration: list[tuple[Tensor, Tensor]]) -> Problem:
        return Problem(
            model=self.dense,
            units=self.units,
            train=self.data.train,
            calibration=calibration,
            num_classes=self.data.num_classes,
            budget=self.budget,
            config=self.config,
        )

    @property
    def _found(self) -> Path:
        """Where the pruned model of a search lies that changes weights."""
        return self.run_folder.state("found")

    def _as_found(self, plan: Plan) -> nn.Module:
        return load(self._found) if self._found.exists() else apply(self.dense, plan)

    def _pruned(self, plan: Plan) -> dict[str, Any]:
        model = self._as_found(plan)
        figures = self._figures(model)
        reached = figures[self.budget.resource]
        asked = self.budget.target(self.units)
        return {**figures, "budget_asked": asked, "budget_reached": reached, "budget_error": reached / asked - 1}

    def _compensated(self, plan: Plan) -> dict[str, Any]:
        start = time.perf_counter()
        images = self._calibration_batches()
        model = compensate(
            self._as_found(plan),
            self.dense,
            plan,
            guarded_calibration(self.run_folder.metrics["search"], self.data.train, images, self.config),
            self.config.compensate,
            precision=self.config.precision,
        )
        seconds = time.perf_counter() - start
        self._save(model, self.run_folder.state("compensated"))
        return {**self._figures(model), "seconds": seconds}

    def _finetuned(self, plan: Plan) -> dict[str, Any]:
        start = time.perf_counter()
        model = finetune(
            load(self.run_folder.state("compensated")),
            self._teacher(),
            self.data.train,
            self.config.finetune,
            batch_size=self.config.data.batch_size,
            workers=self.config.data.workers,
            seed=self.config.seed,
            precision=self.config.precision,
            stream=kept_stream(self.dense, plan),
            state_dir=self.run_folder.state("finetune"),
            on_step=self.tracker.scalars("finetune"),
        )
        seconds = time.perf_counter() - start
        figures = self._figures(model)
        self._save(model, self.run_folder.folder / "pruned", figures["top1"])
        return {**figures, "seconds": seconds}

    def _teacher(self) -> nn.Module | None:
        """Returns what fine-tuning distils from: the dense model as its heads were turned, unless another is named."""
        return self.dense if self.teacher is not None and self.config.finetune.teacher is None else self.teacher

    def _latency(self, pruned: nn.Module) -> dict[str, Any]:
        models = {"dense": self.dense, "pruned": pruned}
        table = compare_latency(models, self.units.input_size, self.config.latency, max_seconds=20.0)
        return {name: {str(batch): ms for batch, ms in row.items()} for name, row in table.items()}

    def _figures(self, model: nn.Module) -> dict[str, Any]:
        """Label-free top-1 on the test images, or on the held-out ones of a run that is for tuning."""
        top1 = evaluate(
            model,
            self._images(),
            batch_size=max(self.config.data.batch_size, 64),
            workers=self.config.data.workers,
            precision=self.config.precision,
        )
        return {"top1": top1, "macs": count_macs(model, self.units.input_size), "params": count_params(model)}

    def _images(self) -> ImageDataset:
        return self.data.test if self.data.val is None else self.data.val

    def _save(self, model: nn.Module, folder: Path, top1: float | None = None) -> None:
        names = self.data.class_names
        save(model, folder, kwargs=self.kwargs, input_spec=self.spec, class_names=names, top1=top1)

    def _calibration_batches(self) -> list[tuple[Tensor, Tensor]]:
        if self._calibration is None:
            self._calibration = calibration_batches(self.data.calibration, self.config.data.batch_size)
        return self._calibration


def unseen_classes(config: RunConfig, data: Splits) -> list[int]:
    """Returns the classes without an image among those that X-Pruner's masks are made of, and says what to do."""
    if config.method != "xpruner":
        return []
    seen = data.train if config.masks.steps else data.calibration
    unseen = absent(seen.labels, data.num_classes)
    if more := len(unseen) - len(absent(data.train.labels, data.num_classes)):
        log.warning(
            "%d of %d classes have training images, but none among the %d for calibration, so that their masks are the "
            "mean of the others'; raise data.calibration_size.", more, data.num_classes, len(seen.labels),
        )  # fmt: skip
    return unseen
