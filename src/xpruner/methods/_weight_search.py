"""Shared by methods that train during their search: one recipe for the weights, one loop, one identity."""

import copy
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from xpruner.errors import UsageError
from xpruner.methods._problem import Problem
from xpruner.training.options import LoopOptions
from xpruner.training.recipe import make_optimizer, make_schedule

LR = 1e-4
"""Peak rate of AdamW on the weights, in searches that train them for a few hundred updates [our choice]."""
WARMUP = 0.05
"""Share of the updates in which that rate rises."""
MIN_LR = 1e-6
"""Rate of the last update."""


class WeightRecipe:
    """The recipe of every search that trains weights: AdamW, a warm-up and a cosine, and clipped gradients.

    The rate depends only on the number of the update, so that resuming needs no stored state for it.

    Args:
        model: Whose weights are trained, and whose gradients are clipped.
        problem: Gives the number of updates, the weight decay and the largest gradient norm.
        others: Further parameter groups with the same schedule, each with its own peak.

    Attributes:
        optimizer: Groups that are added to it later keep a constant rate.
    """

    def __init__(self, model: nn.Module, problem: Problem, others: Iterable[dict[str, Any]] = ()):
        config = replace(problem.config.finetune, lr=LR, warmup=WARMUP, min_lr=MIN_LR)
        self.model, self.clip_grad = model, config.clip_grad
        self.optimizer = make_optimizer(model, config)
        for group in others:
            self.optimizer.add_param_group(group)
        self._schedule = make_schedule(self.optimizer, config, max(problem.config.search.steps, 1))

    def before(self, step: int) -> float:
        """Sets the rates and clips the gradients of update number ``step``, counted from 1; returns the norm before
        clipping."""
        self._schedule.step_update(step - 1)
        return nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad).item()


def trainable_copy(model: nn.Module) -> nn.Module:
    """Returns a copy in train mode with all parameters trainable, also those frozen in the model."""
    return copy.deepcopy(model).train().requires_grad_(True)


def loop_options(problem: Problem, name: str) -> LoopOptions:
    """Returns the options of the loop of one stage of a search, with the folder of its state.

    The seed differs from that of fine-tuning, which would otherwise repeat the same batches.
    """
    folder = problem.state_dir / name if problem.state_dir else None
    options = LoopOptions.of(problem.config, folder, problem.on_step)
    return replace(options, seed=options.seed + 1)


def check_precision(precision: str, name: str) -> None:
    """Raises UsageError in fp16, whose gradients would have to be scaled.

    Args:
        precision: Of the forward passes.
        name: What is to be learned.
    """
    if precision == "fp16":
        raise UsageError(f"precision is fp16, in which the gradients of {name} would vanish; choose bf16 or fp32.")


def check_training(problem: Problem) -> None:
    """Raises UsageError where a search cannot train by gradient: see :func:`check_precision`."""
    check_precision(problem.config.precision, problem.config.method)


def identity(problem: Problem, **more: Any) -> dict[str, Any]:
    """Returns what two searches must share, besides their loops, for one to resume the other.

    Args:
        problem: The problem of the search.
        **more: What else the method depends on, or another value for an entry here, such as ``lr``; JSON values.
    """
    config = problem.config.finetune
    return {
        "budget": asdict(problem.budget),
        "kinds": sorted({group.kind for group in problem.units}),
        "lr": LR,
        "weight_decay": config.weight_decay,
        "clip_grad": config.clip_grad,
        "label_smoothing": config.label_smoothing,
        "temperature": config.temperature,
        **more,
    }
