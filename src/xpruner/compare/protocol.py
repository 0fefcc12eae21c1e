"""The protocol: what one trial of a comparison does, the same for every method."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xpruner.compare.study import DENSE, Trial
from xpruner.errors import XPrunerError
from xpruner.measure.resources import measured
from xpruner.methods import Outcome
from xpruner.methods._outcome_files import read_outcome, write_outcome
from xpruner.models.about import warn_of_accuracy
from xpruner.plan.plan import Plan
from xpruner.run import stages
from xpruner.run.environment import environment
from xpruner.run.folder import comparable
from xpruner.run.setup import Setup


@dataclass(frozen=True)
class Reference:
    """The dense model on its images, which the trials of one seed share.

    Attributes:
        setup: Of one of these trials.
        predictions: (images,) classes that the dense model predicts for the measured images.
        figures: The dense model's, as :func:`xpruner.run.stages.figures` returns them.
    """

    setup: Setup
    predictions: Tensor
    figures: dict[str, Any]


def set_up(trial: Trial) -> Reference:
    """Loads the dense model and the images of a trial, and predicts their classes.

    Raises:
        UsageError: If there is no such model, there are no such images, or the trial cannot work on them.
    """
    setup = Setup.load(trial.as_run)
    predictions, labels = stages.predictions(setup, setup.dense)
    figures = stages.figures_of(setup, setup.dense, predictions, labels, predictions)
    warn_of_accuracy(setup.dense, figures["top1"], len(labels))
    return Reference(setup, predictions, figures)


def run_one(reference: Reference, trial: Trial, folder: Path) -> dict[str, Any]:
    """Searches, cuts, compensates and fine-tunes, and measures after each stage; MACs are those of torch's counter.

    Args:
        reference: What the trials of this seed share; it is not changed.
        trial: What to do.
        folder: Of the state of an unfinished trial.

    Returns:
        The result, as it is stored.

    Raises:
        UsageError: If the method, the budget or the recipe cannot work on the model and the images.
        XPrunerError: If a stage fails, or the model's cost is not the budget.
    """
    return _Protocol(reference, trial, folder).run()


class _Protocol:
    """One trial; each stage leaves its figures in ``stages``."""

    def __init__(self, reference: Reference, trial: Trial, folder: Path):
        self.reference, self.trial, self.folder = reference, trial, folder
        self.setup = reference.setup.under(trial.as_run)
        self.resumed = any((folder / stage).exists() for stage in ("search", "outcome", "finetune"))
        self.stages: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """Runs the stages in order."""
        self.stages["dense"] = self.reference.figures
        outcome = self._search()
        start = self._compensated(self._as_found(outcome), outcome)
        self._finetuned(start, outcome.plan)
        return {
            "label": self.trial.label,
            "length": self.trial.length,
            "config": comparable(self.trial.config),
            "stages": self.stages,
            "figures": outcome.figures,
            "keep": {key: [len(kept), outcome.plan.sizes[key]] for key, kept in outcome.plan.keep.items()},
            "images": len(self.setup.data.measured),
            "resumed": self.resumed,
            "environment": environment(self.trial.config.precision),
        }

    def _search(self) -> Outcome:
        """Rotates heads where their dimensions are units, and searches; the time of both is the search's."""
        if self.trial.config.method == DENSE:
            return Outcome(Plan.of(self.setup.units, {}, DENSE))
        figures: dict[str, Any] = {}
        with measured(figures):
            self.setup = stages.rotated(self.setup)
            outcome = read_outcome(self.folder / "outcome") or stages.search(self.setup, self.folder / "search")
        self.stages["search"] = figures
        if outcome.model is None:
            write_outcome(self.folder / "outcome", outcome)
        return outcome

    def _as_found(self, outcome: Outcome) -> nn.Module:
        """Measures the dense weights under the plan and, where the search has changed them, the model it found."""
        if self.trial.config.method == DENSE:
            return copy.deepcopy(self.setup.dense)
        if outcome.model is None:
            model = stages.cut(self.setup, outcome.plan)
            self.stages["cut"] = found = self._figures(model)
        else:
            model = outcome.model
            if outcome.plan.keep:
                self.stages["cut"] = self._figures(stages.cut(self.setup, outcome.plan))
            self.stages["found"] = found = self._figures(model)
        error = stages.budget_error(self.setup, found)
        if error < -stages.TOLERANCE:
            raise XPrunerError(f"{self.trial.name} costs {-error:.1%} less than was asked for, which is no fair rival.")
        return model

    def _compensated(self, model: nn.Module, outcome: Outcome) -> nn.Module:
        """Returns what fine-tuning starts from."""
        if not outcome.plan.keep or self.setup.config.compensate.mode == "none":
            return model
        figures: dict[str, Any] = {}
        with measured(figures):
            better = stages.compensated(self.setup, model, outcome.plan, outcome.figures)
            taken = stages.is_better(self.setup, better, model)
        self.stages["compensated"] = {**self._figures(better), **figures, "taken": taken}
        return better if taken else model

    def _finetuned(self, model: nn.Module, plan: Plan) -> None:
        recipe = self.setup.config.finetune
        if recipe.steps == 0 or (recipe.steps is None and recipe.epochs == 0):
            return
        figures: dict[str, Any] = {}
        with measured(figures):
            tuned = stages.finetuned(self.setup, model, plan, self.folder / "finetune")
        self.stages["finetuned"] = {**self._figures(tuned), **figures}

    def _figures(self, model: nn.Module) -> dict[str, Any]:
        return stages.figures(self.setup, model, self.reference.predictions)
