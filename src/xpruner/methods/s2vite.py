"""S2ViTE (NeurIPS 2021), S2ViTE-style: the network is trained sparse, and the set of active units changes during
training.

Kept: whole heads and hidden units are masked; every few updates a share of the active ones of each layer is dropped and
as many are grown; heads are dropped by their gradient and hidden units by their weights, both are grown by gradient;
that share decays by a cosine and the exploration ends before the training. Adapted [our choice]: the weights are the
trained dense model's, not freshly initialised; the gradient is that of a unit's gate, in mean magnitude over the images
of one batch; a grown unit begins with the weights that it was dropped with; the first mask keeps the largest weights,
the same share in every layer, so that the budget is met from the first update on.

The mask changes seldom and by little [our choice]: the paper gives weights 7,000 to 20,000 updates between two changes.
Here a whole search has a few hundred, each of which moves a weight by about 1e-4: dropping half of the units every 20
of them would remove units faster than grown ones could become useful.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._scoring import allocate
from xpruner.methods._weight_search import WeightRecipe, check_training, identity, loop_options, trainable_copy
from xpruner.methods.magnitude import l1
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.runtime.devices import autocast
from xpruner.runtime.outputs import logits_of
from xpruner.surgery import apply
from xpruner.training.search import Loop, learn
from xpruner.units import Units
from xpruner.units.gates import gating
from xpruner.units.weights import unit_weights

DROPPED = 0.2
"""Share of a layer's active units that is dropped at the start."""
EXPLORATION = 0.8
"""Share of the updates after which the mask is fixed."""
ROUNDS = 8
"""Number of times that the mask changes, at most."""


@register_method("s2vite", changes_weights=True, check=check_training)
def search(problem: Problem) -> Outcome:
    """Trains a copy of the model under a changing mask, and cuts it by the last one.

    Raises:
        UsageError: If the budget is out of reach.
    """
    steps, model = problem.config.search.steps, trainable_copy(problem.model)
    device = next(model.parameters()).device
    explorer = Explorer(model, problem.units, _first_plan(problem)).to(device)

    def loss(_progress: float, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        with autocast(problem.config.precision, device), gating(model, problem.units, explorer.open_gates(len(images))):
            logits = logits_of(model(images))
        return F.cross_entropy(logits.float(), labels), {}

    def after(step: int) -> None:
        share = dropped_share(step, steps)
        if share:
            explorer.explore(share)

    recipe = WeightRecipe(model, problem)
    loop = Loop("s2vite", explorer, recipe.optimizer, loss, steps, identity(problem), after, recipe.before)
    learn(loop, problem.train, loop_options(problem, "s2vite"))
    recipe.optimizer.zero_grad()
    plan = Plan.of(problem.units, explorer.keep(), "s2vite", problem.budget)
    figures = {"grown units kept": explorer.grown_kept()}
    return Outcome(plan, figures=figures, model=apply(model, plan, inplace=True).eval())


def _first_plan(problem: Problem) -> Plan:
    return plan_from_scores(problem.units, allocate(l1(problem), problem.units, "uniform"), problem.budget)


def dropped_share(step: int, steps: int) -> float:
    """Returns the share of the active units dropped after an update: cosine from ``DROPPED`` to 0; mostly none."""
    end = EXPLORATION * steps
    every = max(1, math.ceil(end / (ROUNDS + 1)))
    return DROPPED / 2 * (1 + math.cos(math.pi * step / end)) if step < end and step % every == 0 else 0.0


class Explorer(nn.Module):
    """A model in training with a mask of its units, which starts from a plan.

    Args:
        model: The weights.
        units: Its groups.
        plan: The first mask. Every group keeps its number of active units, so every mask costs as much as the plan.

    Attributes:
        mask: (all units,) 1 for active units, 0 for the others.
        grown: (all units,) whether a unit has ever been grown.
        owed: (groups,) fractions of units carried over to the next exchange: shares of few heads are less than one
            head.
    """

    mask: Tensor
    grown: Tensor
    owed: Tensor

    def __init__(self, model: nn.Module, units: Units, plan: Plan):
        super().__init__()
        self.model, self.units = model, units
        gates = plan.gates()
        self.register_buffer("mask", torch.cat([gates[group.key] for group in units]))
        self.register_buffer("grown", torch.zeros_like(self.mask, dtype=torch.bool))
        self.register_buffer("owed", torch.zeros(len(units)))
        self._gates: dict[str, Tensor] = {}

    @property
    def masks(self) -> dict[str, Tensor]:
        """For each group's key (units,) views into the mask: 1 for active units, 0 for the others."""
        parts = self.mask.split([group.size for group in self.units])
        return dict(zip([group.key for group in self.units], parts, strict=True))

    def open_gates(self, batch: int) -> dict[str, Tensor]:
        """Returns (batch, units) gates of 0 and 1, whose gradients the next exploration uses."""
        self._gates = {key: mask.expand(batch, -1).clone().requires_grad_() for key, mask in self.masks.items()}
        return self._gates

    @torch.no_grad()
    def explore(self, share: float) -> None:
        """Drops a share of each group's active units, the lowest-scoring, and grows as many inactive ones.

        The remainder after rounding to whole units is carried over.
        """
        weights, before = unit_weights(self.model, self.units), self.mask.clone()
        for i, (key, mask) in enumerate(self.masks.items()):
            self.owed[i] += share * mask.sum()
            count = int(self.owed[i].round())
            self.owed[i] -= count
            slope = gate_gradient(self._gates[key])
            by_weight = self.units[key].kind == "hidden"
            worth = torch.cat(weights[key], 1).norm(1, dim=1) if by_weight else slope
            mask.copy_(dropped_and_grown(mask, worth, slope, count))
        self.grown |= self.mask > before

    def keep(self) -> dict[str, list[int]]:
        """Returns for each group's key the active units."""
        return {key: mask.nonzero()[:, 0].tolist() for key, mask in self.masks.items()}

    def grown_kept(self) -> float:
        """Returns the active share of the units that have ever been grown; 1 where none was."""
        return self.mask[self.grown].mean().item() if self.grown.any() else 1.0


def gate_gradient(gates: Tensor) -> Tensor:
    """Returns (units,) mean magnitudes of the gradients at (batch, units) gates.

    Where a gate is open, its gradient is that of the unit's output A times A, summed over A.
    """
    assert gates.grad is not None
    return gates.grad.abs().mean(0)


def dropped_and_grown(mask: Tensor, worth: Tensor, slope: Tensor, count: int) -> Tensor:
    """Returns the mask (units,) after inactive units replaced as many active ones.

    Args:
        mask: 1 for active units, 0 for the others.
        worth: (units,) the lowest of the active units are dropped.
        slope: (units,) the highest of the inactive units are grown, never one just dropped.
        count: How many; at most the number of active and of inactive units.
    """
    active = mask.bool()
    count = min(count, int(active.sum()), int((~active).sum()))
    gone = worth.masked_fill(~active, math.inf).argsort(stable=True)[:count]
    come = slope.masked_fill(active, -math.inf).argsort(descending=True, stable=True)[:count]
    changed = mask.clone()
    changed[gone] = 0.0
    changed[come] = 1.0
    return changed
