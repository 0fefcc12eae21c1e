"""NViT-style: one global ranking of all kinds of unit by saliency less latency, pruned step by step in training
(Yang et al., Global Vision Transformer Pruning with Hessian-Aware Saliency, CVPR 2023).

Kept: units of five kinds compete in one ranking, the embedding channels, heads, query-key, value and hidden dimensions;
a unit's score is (the sum of w dL/dw over all weights linked to it)^2, normalised between groups of different size,
less eta times the latency that it saves, from a table with linear interpolation; scores are averaged over the steps
with momentum; units are pruned in bundles at regular intervals, while the weights learn by hard distillation and the
divergence from the dense model.

Adapted [our choice]: the latency is a deterministic model, so that a run can be repeated; the sum is divided by the
root of the number of weights, and saliency and latency gain each by their mean over the kept units, so that one eta
fits any model; bundles are the paper's shares of the width; the cost falls linearly to the budget, instead of by a
fixed number of units each time; the dense model gives the hard labels as well as the soft ones, where the paper uses a
CNN.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from xpruner.errors import UsageError
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._weight_search import WeightRecipe, check_training, identity, loop_options
from xpruner.methods.nvit.latency_table import latency_gains, model_latency
from xpruner.methods.taylor import weight_times_gradient
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.runtime.devices import autocast
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import logits_of
from xpruner.surgery import apply
from xpruner.training.losses import distillation_loss, label_loss
from xpruner.training.search import Loop, learn
from xpruner.units import Units, find_units
from xpruner.units.gates import gating
from xpruner.units.weights import resizable_copy, unit_weights

KINDS = ("embed", "head", "qk", "v", "hidden")
MOMENTUM = 0.9
"""Of the saliency, as in Molchanov et al. (CVPR 2019)."""
ETA = 0.01
"""Weight of the mean latency gain of a unit against the mean saliency; the paper's is on the scale of its GPU. Hidden
units are by far the most numerous and save the least each: from 0.1 on, channels and heads are pruned whatever their
saliency."""
BUNDLES = {"embed": 16 / 768, "head": 2 / 12, "qk": 8 / 64, "v": 8 / 64, "hidden": 16 / 3072}
"""Shares of the width that are pruned together: 16, 2, 8, 8 and 16 units of DeiT-B."""
START, END = 0.1, 0.7
"""Shares of the steps after which the first and the last units are pruned; the rest of the training recovers."""
PRUNINGS = 40
"""Number of times that units are pruned, at most; in a search of 600 steps at about every ninth, in the paper at every
hundredth."""


def check_steps(problem: Problem) -> None:
    """Raises UsageError without updates to prune during, or in fp16."""
    check_training(problem)
    steps = problem.config.search.steps
    if steps < 1:
        raise UsageError(f"search.steps is {steps}; nvit prunes while it trains: give it 1 or more.")


@register_method("nvit", KINDS, changes_weights=True, check=check_steps)
def search(problem: Problem) -> Outcome:
    """Trains a copy in which the lowest-scoring units are gated off, and cuts it.

    Raises:
        UsageError: If the budget cannot be reached.
        XPrunerError: If the loss is not finite.
    """
    options, pruning = loop_options(problem, "nvit"), _Pruning(problem)
    with evaluating(problem.model):
        loop = Loop(
            "pruning by saliency", pruning.learned, pruning.recipe.optimizer, pruning.loss, problem.config.search.steps,
            identity(problem, eta=ETA), pruning.prune, pruning.before,
        )  # fmt: skip
        learn(loop, problem.train, options)
    plan = Plan.of(problem.units, pruning.ledger.keep(), "nvit", problem.budget)
    return Outcome(plan, model=apply(restacked(pruning.student, problem.model), plan, inplace=True))


def schedule(steps: int) -> dict[int, float]:
    """Returns the updates after which units are pruned, each with the share of the reduction that is then reached."""
    last = max(1, round(END * steps))
    first = min(round(START * steps), last - 1)
    count = min(PRUNINGS, last - first)
    return {first + round((last - first) * number / count): number / count for number in range(1, count + 1)}


def bundle_sizes(units: Units) -> dict[str, int]:
    """Returns for each kind how many units are pruned together, by the narrowest group of the kind."""
    narrowest: dict[str, int] = {}
    for group in units:
        narrowest[group.kind] = min(group.size, narrowest.get(group.kind, group.size))
    return {kind: max(1, round(BUNDLES.get(kind, 0) * size)) for kind, size in narrowest.items()}


def saliency(products: Sequence[Tensor]) -> Tensor:
    """Returns (units,): (sum of w dL/dw over a unit's weights)^2 / number of its weights.

    Args:
        products: (units, numbers) of every parameter of which the units own a part.
    """
    total = torch.stack([tensor.sum(1) for tensor in products]).sum(0)
    return total.square() / sum(tensor.shape[1] for tensor in products)


class Ledger(nn.Module):
    """The state of every unit, as buffers.

    Args:
        sizes: Number of units by group key.

    Attributes:
        saliency: (all units,) averaged over the steps with momentum, while the unit is kept.
        gone: (all units,) the update after which the unit was pruned; 0 while it is kept.
    """

    saliency: Tensor
    gone: Tensor

    def __init__(self, sizes: Mapping[str, int]):
        super().__init__()
        self.sizes = dict(sizes)
        self.register_buffer("saliency", torch.zeros(sum(self.sizes.values()), dtype=torch.double))
        self.register_buffer("gone", torch.zeros(sum(self.sizes.values()), dtype=torch.long))

    def by_group(self, values: Tensor) -> dict[str, Tensor]:
        """Returns (all units,) values as (units,) by group key."""
        return dict(zip(self.sizes, values.split(list(self.sizes.values())), strict=True))

    def observe(self, seen: Mapping[str, Tensor]) -> None:
        """Adds the saliency (units,) of every group in one step; that of pruned units is unchanged."""
        new = torch.cat([seen[key] for key in self.sizes]).to(self.saliency)
        self.saliency.copy_(torch.where(self.gone == 0, new.lerp(self.saliency, MOMENTUM), self.saliency))

    def keep(self) -> dict[str, list[int]]:
        """Returns the kept units."""
        return {key: (gone == 0).nonzero()[:, 0].tolist() for key, gone in self.by_group(self.gone).items()}

    def remove_all_but(self, keep: Mapping[str, list[int]], step: int) -> None:
        """Records which units were pruned after an update; a restored unit counts as kept again."""
        for key, gone in self.by_group(self.gone).items():
            there = torch.zeros_like(gone, dtype=torch.bool)
            there[keep[key]] = True
            gone.copy_(torch.where(there, 0, gone.where(gone > 0, step)))

    def gates(self) -> dict[str, Tensor]:
        """Returns the 0/1 gates of the groups of which units are pruned."""
        return {key: (gone == 0).float() for key, gone in self.by_group(self.gone).items() if gone.any()}

    def scores(self, gains: Mapping[str, float]) -> dict[str, Tensor]:
        """Returns for each group (units,): saliency less eta times latency gain, each relative to its mean.

        Pruned units score lowest, the earlier the lower: one is restored only where no other fits a gap in the budget.

        Args:
            gains: The latency that one unit of each group saves.
        """
        there = self.gone == 0
        gain = torch.cat([self.saliency.new_full((size,), gains[key]) for key, size in self.sizes.items()])
        worth = _relative(self.saliency, there) - ETA * _relative(gain, there)
        span = worth.max() - worth.min() + 1
        age = torch.where(there, 0, self.gone.max() + 1 - self.gone)
        return self.by_group(worth - span * age)


class _Pruning:
    """The copy that is trained and gated, with the loss of a step and what happens between two of them."""

    def __init__(self, problem: Problem):
        self.problem, units = problem, problem.units
        self.student = resizable_copy(problem.model, units).train().requires_grad_(True)
        kinds = list(dict.fromkeys(group.kind for group in units))
        self.units = find_units(self.student, kinds, units.input_size)  # located in the copy, for its gates
        self.ledger = Ledger({group.key: group.size for group in units}).to(next(self.student.parameters()).device)
        self.learned = nn.ModuleDict({"student": self.student, "ledger": self.ledger})
        self.recipe = WeightRecipe(self.student, problem)
        self.tables = model_latency(units)
        self.schedule = schedule(problem.config.search.steps)
        self.budget = replace(problem.budget, round_to={**bundle_sizes(units), **problem.budget.round_to})

    def loss(self, _progress: float, images: Tensor, _labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Returns cross-entropy with the dense model's choices plus the divergence from its outputs."""
        with autocast(self.problem.config.precision, images.device):
            with torch.no_grad():
                dense = logits_of(self.problem.model(images)).float()
            with gating(self.student, self.units, self.ledger.gates()):
                logits = logits_of(self.student(images)).float()
        soft = distillation_loss(logits, dense)
        units, resource = self.problem.units, self.budget.resource
        share = units.cost(self.ledger.keep(), resource) / units.total(resource)
        return label_loss(logits, dense.argmax(1)) + soft, {"divergence": soft.item(), "cost": share}

    def prune(self, step: int) -> None:
        """Prunes units after an update if the schedule demands it, so that the cost follows its line."""
        if step not in self.schedule:
            return
        units, resource = self.problem.units, self.budget.resource
        dense, target = units.total(resource), self.budget.target(units)
        amount = min(dense, dense + (target - dense) * self.schedule[step])
        kept = {key: len(indices) for key, indices in self.ledger.keep().items()}
        bundles = {group.key: self.budget.multiple(group) for group in units}
        scores = self.ledger.scores(latency_gains(self.tables, kept, bundles))
        self.ledger.remove_all_but(plan_from_scores(units, scores, replace(self.budget, amount=amount)).keep, step)

    def before(self, step: int) -> float:
        """Updates the saliency by the gradients of an update, prepares the update, and returns the norm of the
        gradients."""
        products = unit_weights(self.student, self.units, weight_times_gradient)
        self.ledger.observe({key: saliency(tensors) for key, tensors in products.items()})
        return self.recipe.before(step)


def restacked(student: nn.Module, model: nn.Module) -> nn.Module:
    """Returns a copy of a model with the weights of its trained resizable copy, in its own layout and modes."""
    weights = student.state_dict()
    model = copy.deepcopy(model)
    for name in model.state_dict():
        if name not in weights:  # queries, keys and values are one layer here
            weights[name] = torch.cat([weights[name.replace(".qkv.", f".{part}.")] for part in ("qk", "v")])
    model.load_state_dict(weights, strict=False)
    return model


def _relative(values: Tensor, there: Tensor) -> Tensor:
    return values / values[there].mean().clamp(min=torch.finfo(values.dtype).tiny)
