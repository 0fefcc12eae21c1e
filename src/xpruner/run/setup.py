"""What a run works on: model, images, units, budget and teacher, all of it checked before anything is computed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xpruner.config import RunConfig
from xpruner.config.checks import check
from xpruner.config.files import expanded
from xpruner.data import InputSpec, Splits, calibration_batches, class_names, load_data
from xpruner.data.fingerprint import fingerprints
from xpruner.data.overview import in_one_line, overview
from xpruner.errors import UsageError
from xpruner.methods import Method, Problem, find_method, kinds_for
from xpruner.methods.xpruner.guard_images import to_measure
from xpruner.models import load_model, load_teacher
from xpruner.models.about import known_classes
from xpruner.models.checkpoint import arguments_of
from xpruner.models.own_copy import own_copy
from xpruner.plan.budget import Budget
from xpruner.run.identity import Identity, model_identity
from xpruner.runtime.devices import accelerator
from xpruner.training.features import last_block
from xpruner.training.finetune_job import FinetuneJob
from xpruner.training.options import LoopOptions, OnStep
from xpruner.units import Units, find_units

log = logging.getLogger("xpruner")


@dataclass(frozen=True)
class Setup:
    """What a run works on.

    Attributes:
        config: The whole run.
        dense: The dense model, in eval mode; the run leaves it as it is.
        kwargs: The arguments that make the model again, as a saved one notes them; None for those of transformers.
        data: The images.
        units: What of the model may be pruned.
        budget: What the pruned model may cost.
        other_teacher: What fine-tuning distils from, where the recipe names another model than the dense one.
    """

    config: RunConfig
    dense: nn.Module
    kwargs: dict[str, Any] | None
    data: Splits
    units: Units
    budget: Budget
    other_teacher: nn.Module | None = None

    @classmethod
    def load(
        cls, config: RunConfig, model: nn.Module | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> "Setup":
        """Loads what a configuration names, and checks that every stage can work on it.

        Args:
            config: The whole run.
            model: The dense model, when it is at hand; else the configuration says which. It stays as it is.
            kwargs: The arguments of ``timm.create_model`` that made it, where they cannot be deduced from it.

        Raises:
            UsageError: If a value is out of range, the model, the images or the teacher are not there or do not go
                together, or the budget, the method or the recipe cannot work on them.
            XPrunerError: If a file is damaged or cannot be fetched.
        """
        config = expanded(config)
        check_options(config)
        made_by: dict[str, Any] | None
        if model is not None:
            dense = own_copy(model)
            made_by = arguments_of(dense, kwargs)  # once, of the dense model: a pruned one no longer shows them
        else:
            dense, made_by = load_model(config.model, config.model.num_classes or len(class_names(config.data)))
        spec = InputSpec.of(dense.eval())
        data = load_data(config.data, spec, config.seed, known_classes(dense))
        log.info("%s", in_one_line(overview(data), spec))
        return cls.of(config, dense, data, made_by)

    @classmethod
    def of(cls, config: RunConfig, dense: nn.Module, data: Splits, kwargs: dict[str, Any] | None = None) -> "Setup":
        """Returns the setup of a run on a model and images that are at hand; what it raises is as for :meth:`load`."""
        check_options(config)
        budget = Budget.parse(config.budget, config.round_to)
        setup = cls(config, dense, kwargs, data, find_units(dense, kinds_for(config, dense)), budget)
        setup._check()
        teacher = load_teacher(config.finetune, dense)
        return setup.replaced(other_teacher=None if teacher is dense else teacher)

    @property
    def method(self) -> Method:
        """What makes the plan."""
        return find_method(self.config.method)

    @property
    def spec(self) -> InputSpec:
        """The input that the model expects."""
        return InputSpec.of(self.dense)

    @property
    def teacher(self) -> nn.Module | None:
        """What fine-tuning distils from; None where it learns from labels alone."""
        if self.config.finetune.distill == 0:
            return None
        return self.dense if self.other_teacher is None else self.other_teacher

    @cached_property
    def calibration(self) -> list[tuple[Tensor, Tensor]]:
        """Batches of training images without augmentation, (batch, 3, height, width), and their labels (batch,).

        Raises:
            UsageError: If they say nothing about the units, as all are the same.
        """
        return calibration_batches(self.data.calibration, self.config.data.batch_size, self.config.data.workers)

    def identity(self) -> Identity:
        """Returns what a run belongs to: its model, another teacher, and its images."""
        models = {"model": self.dense}
        if self.other_teacher is not None:
            models[f"teacher {self.config.finetune.teacher}"] = self.other_teacher
        known = {name: model_identity(model, self.spec.shape) for name, model in models.items()}
        return {**known, **fingerprints(self.data)}

    def under(self, config: RunConfig) -> "Setup":
        """Returns the setup of another run on the same model and images; what it raises is as for :meth:`load`."""
        return Setup.of(config, self.dense, self.data, self.kwargs)._with_calibration_of(self)

    def replaced(self, **changes: Any) -> "Setup":
        """Returns a setup with other fields and the same calibration batches, where they are loaded."""
        return replace(self, **changes)._with_calibration_of(self)

    def _with_calibration_of(self, other: "Setup") -> "Setup":
        if "calibration" in other.__dict__:
            self.__dict__["calibration"] = other.calibration
        return self

    def problem(self, state_dir: Path | None = None, on_step: OnStep | None = None) -> Problem:
        """Returns what the method is asked to solve; its arguments are those of :class:`Problem`."""
        return self._problem(self.calibration, state_dir, on_step)

    def _problem(
        self, calibration: list[tuple[Tensor, Tensor]], state_dir: Path | None = None, on_step: OnStep | None = None
    ) -> Problem:
        return Problem(
            model=self.dense,
            units=self.units,
            train=self.data.train,
            calibration=calibration,
            num_classes=self.data.num_classes,
            budget=self.budget,
            config=self.config,
            state_dir=state_dir,
            on_step=on_step,
        )

    def _check(self) -> None:
        """Raises UsageError where a later stage could not work on this model and these images."""
        config = self.config
        self.budget.target(self.units)
        self.method.check(self._problem([]))
        if config.max_class_drop is not None:
            to_measure(self.data.train.labels, len(self.data.calibration), config.max_class_drop)
        FinetuneJob(accelerator(), self.data.train, config.finetune, LoopOptions.of(config)).check()
        if config.finetune.features:
            last_block(self.dense)


def check_options(config: RunConfig) -> None:
    """Raises UsageError for the first option that cannot be, as the configuration alone shows."""
    check(config)
    Budget.parse(config.budget, config.round_to)
    method = find_method(config.method)
    method.own_options(config)
    if config.max_class_drop is not None and not method.guards_classes:
        raise UsageError(
            f"max_class_drop is {config.max_class_drop:g}, but the method {method.name!r} guards no classes; leave it "
            "out, or choose xpruner."
        )
    mode = config.compensate.mode
    if method.changes_weights and mode in ("affine", "mean"):
        raise UsageError(
            f"compensate.mode is {mode}, which fits the dense model's weights, but the search of {method.name!r} "
            "changes them; set it to sequential or none."
        )
