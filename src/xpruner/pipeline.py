"""The stages in order over one run directory: masks, thresholds, plan, surgery, compensation, fine-tuning."""

import logging
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xpruner.checkpoint import load, save
from xpruner.compensation import check_focus, check_handed_over, compensate
from xpruner.config import RunConfig
from xpruner.cost import count_macs, count_params
from xpruner.data import InputSpec, Splits, calibration_batches, class_names, load_data
from xpruner.data.by_class import absent
from xpruner.errors import UsageError
from xpruner.explain.finished import UNSEEN, remember_data
from xpruner.guard_images import guarded_calibration, to_measure
from xpruner.latency import compare_latency
from xpruner.methods import Problem, find_method
from xpruner.methods.base import DENSE_MASKS, MASKS, kinds_for, prepared, write_masks
from xpruner.models import load_model, load_teacher
from xpruner.outputs import classes_of
from xpruner.plan import Budget, Plan
from xpruner.run import Run
from xpruner.signals import NONE, find_signal
from xpruner.surgery import apply
from xpruner.tracking import Tracker
from xpruner.training import evaluate, finetune
from xpruner.training.features import kept_stream
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


def run_pipeline(config: RunConfig, model: nn.Module | None = None) -> PruneResult:
    """Runs every stage that the run directory does not hold yet.

    Args:
        config: The whole run.
        model: The dense model, when it is at hand; else the config says which.

    Raises:
        UsageError: If the configuration cannot be met; before anything is computed where that can be known.
        XPrunerError: If a stage fails; what was computed lies in the run directory.
    """
    if not find_method(config.method).plain:
        raise UsageError(f"The method {config.method!r} makes models that cannot be saved; `xpruner compare` runs it.")
    check_guard(config)
    check_signal(config)
    check_focus(config.compensate)
    with Tracker(config.output) as tracker:
        return _Pipeline(config, model, tracker).run()


class _Pipeline:
    """The stages over one run directory; each reads what the ones before it left."""

    def __init__(self, config: RunConfig, model: nn.Module | None, tracker: Tracker):
        self.config, self.tracker = config, tracker
        self.kwargs: dict[str, Any] | None = None
        if model is None:
            classes = config.model.num_classes or len(class_names(config.data))
            model, self.kwargs = load_model(config.model, classes)
        self.dense = model.eval()
        self.spec = InputSpec.of(self.dense)
        self.data = load_data(config.data, self.spec, config.seed)
        check_classes(self.dense, self.data)
        self.unseen = unseen_classes(config, self.data)
        self.units = find_units(self.dense, kinds_for(config, self.dense))
        self.budget = Budget.parse(config.budget, config.round_to)
        self.budget.target(self.units)  # out of reach is known before anything is computed
        if config.max_class_drop is not None:
            to_measure(self.data.train.labels, len(self.data.calibration), config.max_class_drop)
        self.run_folder = Run(config)
        remember_data(config)
        self._calibration: list[tuple[Tensor, Tensor]] | None = None

    def run(self) -> PruneResult:
        """Runs the stages in the order of the method."""
        run = self.run_folder
        run.stage("dense", self._dense)
        self.dense = load(run.folder / "dense")  # turned, where its heads' dimensions are pruned
        run.stage("search", self._search)
        plan = Plan.load(run.folder / "plan.json")
        run.stage("pruned", lambda: self._pruned(plan))
        run.stage("compensated", lambda: self._compensated(plan))
        run.stage("finetuned", lambda: self._finetuned(plan))
        pruned = load(run.folder / "pruned")
        if self.config.latency:
            run.stage("latency", lambda: self._latency(pruned))
        run.stage("environment", environment)
        masks = run.folder / MASKS
        return PruneResult(pruned, plan, load_file(masks) if masks.exists() else {}, run.metrics, run.folder)

    def _dense(self) -> dict[str, Any]:
        dense = prepared(self.dense, self._calibration_batches(), self.config)
        self._save(dense, self.run_folder.folder / "dense")
        return self._figures(dense)

    def _search(self) -> dict[str, Any]:
        start = time.perf_counter()
        problem = Problem(
            model=self.dense,
            units=self.units,
            train=self.data.train,
            calibration=self._calibration_batches(),
            num_classes=self.data.num_classes,
            budget=self.budget,
            config=self.config,
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
        if self._found.exists():
            check_handed_over(self.config.compensate, self.config.method)
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
            load_teacher(self.config.finetune, self.dense),
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
        self._save(model, self.run_folder.folder / "pruned")
        return {**self._figures(model), "seconds": seconds}

    def _latency(self, pruned: nn.Module) -> dict[str, Any]:
        models = {"dense": self.dense, "pruned": pruned}
        table = compare_latency(models, self.units.input_size, self.config.latency, max_seconds=20.0)
        return {name: {str(batch): ms for batch, ms in row.items()} for name, row in table.items()}

    def _figures(self, model: nn.Module) -> dict[str, Any]:
        """Label-free top-1 on the test images, or on the held-out ones of a run that is for tuning."""
        images = self.data.test if self.data.val is None else self.data.val
        top1 = evaluate(
            model,
            images,
            batch_size=max(self.config.data.batch_size, 64),
            workers=self.config.data.workers,
            precision=self.config.precision,
        )
        return {"top1": top1, "macs": count_macs(model, self.units.input_size), "params": count_params(model)}

    def _save(self, model: nn.Module, folder: Path) -> None:
        save(model, folder, kwargs=self.kwargs, input_spec=self.spec, class_names=self.data.class_names)

    def _calibration_batches(self) -> list[tuple[Tensor, Tensor]]:
        if self._calibration is None:
            self._calibration = calibration_batches(self.data.calibration, self.config.data.batch_size)
        return self._calibration


def check_classes(model: Any, data: Splits) -> None:
    """Raises UsageError unless the model has a class for each of the data's."""
    if classes_of(model) != data.num_classes:
        raise UsageError(
            f"The model has {classes_of(model)} classes but the data have {data.num_classes}; give a model whose "
            "classifier was trained on these classes."
        )


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


def check_guard(config: RunConfig) -> None:
    """Raises UsageError where a run asks for a guard that cannot be."""
    limit = config.max_class_drop
    if limit is not None and limit <= 0:
        raise UsageError(f"max_class_drop is {limit:g}; it must be above 0, such as 2 percentage points.")
    if limit is not None and config.method != "xpruner":
        raise UsageError(f"max_class_drop guards the plans of method 'xpruner', not {config.method!r}; leave it out.")


def check_signal(config: RunConfig) -> None:
    """Raises UsageError where the masks are to start from evidence that nothing provides."""
    if config.masks.evidence != NONE:
        find_signal(config.masks.evidence)


def environment() -> dict[str, Any]:
    """Returns the versions that a result depends on."""
    import timm

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
    }
