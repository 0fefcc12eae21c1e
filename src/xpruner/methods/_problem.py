"""What a method is asked to solve, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from xpruner.calibration.moments import Batches
from xpruner.config import RunConfig
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.training.options import OnStep
from xpruner.units import Units


@dataclass(frozen=True)
class Problem:
    """What a method is asked to solve; it does not change the model.

    Attributes:
        model: The dense model.
        units: Its prunable groups.
        train: Training images with labels.
        calibration: A list of batches of training images without augmentation.
        num_classes: Of the labels.
        budget: The cost to meet.
        config: Seed, precision, batches and the method's own options.
        state_dir: Where the method stores the state that it needs to resume; absent, nothing is stored.
        on_step: Called after every update with its number and figures.
        options: The method's own, where it has some.
    """

    model: nn.Module
    units: Units
    train: Dataset
    calibration: Batches
    num_classes: int
    budget: Budget
    config: RunConfig
    state_dir: Path | None = None
    on_step: OnStep | None = None
    options: Any = None


@dataclass(frozen=True)
class Outcome:
    """What a method found.

    Attributes:
        plan: Which units are kept.
        masks: (classes, units) tables by group key; empty for a method that learns none.
        figures: What it logs, such as the leak.
        model: The pruned model, where the search changes weights or more than units; absent, it is the dense model cut
            by the plan.
        dense_masks: The masks of the whole dense model, where ``masks`` holds some that were learned after a cut.
    """

    plan: Plan
    masks: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    model: nn.Module | None = None
    dense_masks: dict[str, Tensor] = field(default_factory=dict)


Search = Callable[[Problem], Outcome]


Check = Callable[[Problem], None]
