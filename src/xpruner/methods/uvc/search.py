"""UVC: weights, widths and skipped blocks from one minimax problem (Yu et al., ICLR 2022).

Kept from the paper: in every layer s1 heads, s2 hidden units and r value dimensions are pruned, and whole blocks are
skipped by Gumbel-softmax; the squared column norms of proj and fc2 are the scores, and "the scores of the s lowest sum
to 0" is the constraint, with a dual each; weights follow AdamW on the labels and the dense model's outputs and a
proximal step, s and r descend, straight through their rounding up, and duals ascend, clamped at 0.

Adapted: the pruned value dimensions are the same in all heads of a layer (the paper: each head has its own); the cost
is that of the units, in which the paper's released formula is wrong; 30 epochs become ``search.steps`` updates with
rates scaled to them (``uvc/dual.py``); and the plan is solved to the budget around the learned counts.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import RelaxedBernoulli

from xpruner.errors import UsageError
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._weight_search import WeightRecipe, check_training, identity, loop_options, trainable_copy
from xpruner.methods.uvc.dual import Compression, column_norms
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.runtime.devices import autocast
from xpruner.runtime.modes import frozen
from xpruner.runtime.outputs import logits_of
from xpruner.surgery import apply
from xpruner.training.losses import finetune_loss
from xpruner.training.search import Loop, learn
from xpruner.units import UnitGroup
from xpruner.units.gates import gating

KINDS = ("head", "hidden", "v", "block")
DISTILL = 0.1
TEMPERATURE = 0.5
"""Temperature of the Gumbel-softmax."""
WARMUP = 1 / 6
"""Share of the updates that train weights alone: 5 of the paper's 30 epochs."""
CHOICES = 12
"""Steps of the blocks' logits in a search: one every 50 of 600 updates."""


def check_columns(problem: Problem) -> None:
    """Raises UsageError where a group has no consumer whose columns can be scored, or in fp16."""
    check_training(problem)
    for group in problem.units:
        if group.kind != "block" and not _has_columns(problem.model, group):
            raise UsageError(
                f"uvc scores the columns of the consumer of the units, and the {group.kind} units of "
                f"{group.module!r} have none of their own; leave {group.kind!r} out of the kinds of unit to prune."
            )
    if all(group.kind == "block" for group in problem.units):
        raise UsageError("uvc cannot meet a budget by blocks alone; add 'head' or 'hidden' to the kinds of unit.")


@register_method("uvc", KINDS, changes_weights=True, check=check_columns)
def search(problem: Problem) -> Outcome:
    """Trains a copy of the model together with the counts of its units, its blocks and the duals."""
    options, training = loop_options(problem, "uvc"), _Training(problem)
    recipe = WeightRecipe(training.model, problem)
    with frozen(problem.model):
        loop = Loop(
            "compressing", training.learned, recipe.optimizer, training.loss, problem.config.search.steps,
            identity(problem), training.after, recipe.before,
        )  # fmt: skip
        learn(loop, problem.train, options)
    recipe.optimizer.zero_grad()
    plan = _plan(problem, training.model, training.compression)
    model = apply(training.model, plan, inplace=True).train(problem.model.training)
    return Outcome(plan, figures=training.figures(), model=model)


def _has_columns(model: nn.Module, group: UnitGroup) -> bool:
    if group.kind not in KINDS or group.consumer is None:
        return False
    return getattr(model.get_submodule(group.consumer), "groups", 1) == 1


class _Training:
    """The loss of a step and the updates after it; all state that changes is in ``learned``."""

    def __init__(self, problem: Problem):
        self.problem, self.units = problem, problem.units
        self.steps = problem.config.search.steps
        self.model = trainable_copy(problem.model)
        target = problem.budget.target(self.units) / self.units.total(problem.budget.resource)
        self.warmup = int(WARMUP * self.steps)
        self.compression = Compression(
            problem.model, self.units, problem.budget.resource, target, max(self.steps - self.warmup, 1)
        )
        self.learned = nn.ModuleDict({"model": self.model, "compression": self.compression})
        self.learned.to(next(problem.model.parameters()).device)
        self.config = replace(problem.config.finetune, distill=DISTILL)

    def loss(self, progress: float, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss on labels and on the dense model's outputs, and the figures to log."""
        precision = self.problem.config.precision
        with autocast(precision, images.device):
            with torch.no_grad():
                dense = logits_of(self.problem.model(images)).float()
            with gating(self.model, self.units, self._gates()):
                logits = logits_of(self.model(images)).float()
        return finetune_loss(logits, labels, dense, self.config), self.figures()

    def _gates(self) -> dict[str, Tensor]:
        """Samples which blocks run, softly; in the warm-up all of them do."""
        blocks = self.compression.blocks
        if self.compression.step < self.warmup or not blocks:
            return {}
        gates = RelaxedBernoulli(torch.tensor(TEMPERATURE), logits=self.compression.run).rsample()
        return {group.key: gate[None] for group, gate in zip(blocks, gates, strict=True)}

    def figures(self) -> dict[str, float]:
        """Returns the cost expected now, as a share of the dense model's, and its price."""
        return {"cost": self.compression.cost_and_slopes()[0], "price": self.compression.price.item()}

    def after(self, step: int) -> None:
        """Acts after an update of the weights: the proximal step, then s and r, the blocks, and the duals."""
        self.compression.step.fill_(step)
        if step <= self.warmup:
            return
        compression = self.compression
        compression.shrink(self.model)
        scores = compression.sorted_scores(self.model)
        compression.descend(scores)
        self._choose_blocks(step)
        compression.ascend(scores)

    def _choose_blocks(self, step: int) -> None:
        """Accumulates the slopes of the loss by the blocks' logits, and steps along their mean at intervals."""
        run, slope = self.compression.run, self.compression.task_slope
        if run.grad is not None:
            slope += run.grad
            run.grad = None
        every = max(1, round(self.steps / CHOICES))
        if step % every == 0:
            worth = math.log(self.problem.num_classes)  # the loss of a uniform prediction
            self.compression.choose_blocks(slope / every, worth, every / self.compression.steps)
            slope.zero_()


def _plan(problem: Problem, trained: nn.Module, compression: Compression) -> Plan:
    """Keeps the learned counts, and meets the budget by one common shift of all groups' shares."""
    units = problem.units
    skipped = _skipped(problem, compression)
    scores = {
        group.key: run.sigmoid()[None] + (-2 if group.key in skipped else 2)  # shares lie between -1 and 1
        for group, run in zip(compression.blocks, compression.run.detach(), strict=True)
    }
    for group, count in zip(compression.groups, compression.counts(), strict=True):
        ranks = column_norms(trained, group).argsort(stable=True).argsort()
        scores[group.key] = (ranks + 0.5 - count) / group.size
    return plan_from_scores(units, scores, problem.budget, "uvc")


def _skipped(problem: Problem, compression: Compression) -> list[str]:
    """Returns the blocks that are likelier skipped than run; fewer where the others cannot use up the budget."""
    order = compression.run.argsort().tolist()
    skipped = [compression.blocks[i].key for i in order if compression.run[i] < 0]
    target = problem.budget.target(problem.units)
    while problem.units.cost({key: [] for key in skipped}, problem.budget.resource) < target:
        skipped.pop()
    return skipped
