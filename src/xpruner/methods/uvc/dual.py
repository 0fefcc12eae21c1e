"""What UVC learns besides the weights: how many units of each group are pruned, which blocks run, and the duals of
both."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.plan.budget import minimum
from xpruner.units import UnitGroup, Units

RUN = 3.0
"""Logit at the start that a block runs: it is skipped in 5 of 100 updates."""
TRAVEL = 3.0
"""Share of a group that is pruned over the whole search at the largest gradient. The paper: SGD 0.02 on counts."""
PROXIMAL = 2.5
"""Rate of the proximal step, summed over the search. The paper: that of the weights, 1e-4 a step."""
DUAL = 20.0
"""Ascent rate of the groups' duals, summed over the search."""
PRICE = 5.0
"""Ascent rate of the budget's dual, summed over the search."""
SKIP = 1500.0
"""Rate of the blocks' logits, summed over the search. The paper: 0.1 every 50 steps."""


def column_norms(model: nn.Module, group: UnitGroup) -> Tensor:
    """Returns the (units,) squared norms of the columns of a group's consumer; a head's is the sum over its columns."""
    assert group.consumer is not None
    layer: Any = model.get_submodule(group.consumer)
    weight = layer.weight.detach()
    return weight.square().transpose(0, 1).flatten(1).sum(1)[group.channels.to(weight.device)].sum(1)


class Compression(nn.Module):
    """The minimax problem: s units of a group are pruned, whose scores must be 0, until the budget is met.

    All quantities are scaled so that updates do not depend on the length of the search and the size of the model [our
    choice]: scores are relative to their group's mean in the dense model, the slope of the cost to its root mean square
    over the groups there, so that a dual and the price have equal weight where both are 1; the excess of the cost is
    relative to the kept or the pruned share, whichever is less, and every rate is that of a whole search divided by its
    steps.

    Args:
        model: The dense model.
        units: Groups with a consumer, and blocks.
        resource: ``macs`` or ``params``.
        target: Share of the dense model's cost that may remain.
        steps: Of the search, without those of the warm-up.

    Attributes:
        removed: (groups,) s or r, a number of units that is rounded up where it counts.
        dual: (groups,) y or p, the multipliers of "the scores of pruned units sum to 0".
        price: () z, the multiplier of the budget.
        run: (blocks,) logits that a block runs.
        task_slope: (blocks,) sum of the slopes of the task's loss by these logits since their last step.
        step: () updates so far, including those of the warm-up.
    """

    removed: Tensor
    dual: Tensor
    price: Tensor
    task_slope: Tensor
    step: Tensor
    sizes: Tensor
    most: Tensor
    means: Tensor
    steepness: Tensor

    def __init__(self, model: nn.Module, units: Units, resource: str, target: float, steps: int):
        super().__init__()
        self.units, self.resource, self.target, self.steps = units, resource, target, steps
        self.groups = [group for group in units if group.kind != "block"]
        self.blocks = [group for group in units if group.kind == "block"]
        groups, blocks = len(self.groups), len(self.blocks)
        for name, shape in {"removed": (groups,), "dual": (groups,), "price": (), "task_slope": (blocks,)}.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.run = nn.Parameter(torch.full((blocks,), RUN))
        constants = {
            "sizes": torch.tensor([float(group.size) for group in self.groups]),
            "most": torch.tensor([float(group.size - minimum(group)) for group in self.groups]),
            "means": torch.stack([column_norms(model, group).mean().cpu().clamp(min=1e-12) for group in self.groups]),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("steepness", self.cost_and_slopes()[1].square().mean().sqrt(), persistent=False)

    def cost_and_slopes(self) -> tuple[float, Tensor, Tensor]:
        """Returns the share of the cost that remains, and its slopes by the removed shares and the blocks' logits.

        By the straight-through estimator, counts are rounded up, and a block counts in full while it is likelier to run
        than not.
        """
        with torch.enable_grad():
            shares = (self.removed / self.sizes).requires_grad_()
            run = self.run.detach().requires_grad_()
            soft = torch.cat([1 - shares, run.sigmoid()])
            hard = torch.cat([1 - self.removed.ceil() / self.sizes, (run > 0).to(soft)])
            kept = (soft + (hard - soft).detach()).unbind()
            keys = [group.key for group in (*self.groups, *self.blocks)]
            cost = self.units.cost_of(dict(zip(keys, kept, strict=True)), self.resource)
            cost = cost / self.units.total(self.resource)
            by_share, by_run = torch.autograd.grad(cost, (shares, run))
        return cost.item(), by_share, by_run

    def counts(self) -> list[int]:
        """Returns how many units of each group are pruned."""
        return self.removed.ceil().long().tolist()

    @torch.no_grad()
    def shrink(self, model: nn.Module) -> None:
        """The proximal step: divides the columns of the s lowest units of every group by 1 + 2 rate dual."""
        divisors = (1 + 2 * PROXIMAL / self.steps * self.dual).tolist()
        for group, count, divisor in zip(self.groups, self.counts(), divisors, strict=True):
            if count and divisor > 1:
                layer: Any = model.get_submodule(group.consumer or "")
                least = column_norms(model, group).topk(count, largest=False).indices.cpu()
                layer.weight[:, group.channels[least].flatten().to(layer.weight.device)] /= divisor

    def sorted_scores(self, model: nn.Module) -> list[Tensor]:
        """Returns the (units,) scores of every group, ascending."""
        pairs = zip(self.groups, self.means, strict=True)
        return [column_norms(model, group).sort().values / mean for group, mean in pairs]

    @torch.no_grad()
    def descend(self, scores: Sequence[Tensor]) -> None:
        """A step of s and r against dual x (score of the next unit to prune) + price x slope of the cost.

        Where that restores units, the score is that of the last pruned unit: at 0 restoring it gains nothing, and s
        rests instead of oscillating [our choice]. The root mean square of the gradient over the groups is at most 1,
        where the paper bounds the norm of each gradient.
        """
        at = list(zip(scores, self.counts(), strict=True))
        cost, slopes, _ = self.cost_and_slopes()
        slopes = self._price_at(cost) * slopes / self.steepness
        forward = self.dual * torch.stack([score[count] for score, count in at]) + slopes
        backward = self.dual * torch.stack([score[max(count - 1, 0)] for score, count in at]) + slopes
        gradient = forward.clamp(max=0) + backward.clamp(min=0)
        gradient /= gradient.square().mean().sqrt().clamp(min=1)
        moved = self.removed - TRAVEL / self.steps * gradient * self.sizes
        self.removed.copy_(torch.minimum(moved.clamp(min=0), self.most))

    @torch.no_grad()
    def ascend(self, scores: Sequence[Tensor]) -> None:
        """A step of the duals along the violation of their constraints; none falls below 0."""
        sums = torch.stack([score[:count].sum() for score, count in zip(scores, self.counts(), strict=True)])
        self.dual += DUAL / self.steps * sums / self.sizes
        self.dual.clamp_(min=0)
        excess = (self.cost_and_slopes()[0] - self.target) / max(min(self.target, 1 - self.target), 1e-6)
        self.price += PRICE / self.steps * excess
        self.price.clamp_(min=0)

    def _price_at(self, cost: float) -> Tensor | float:
        """Returns the price, 0 once the budget is met [our choice]: units emptied by it would not recover."""
        return self.price if cost > self.target else 0.0

    @torch.no_grad()
    def choose_blocks(self, slope_of_task: Tensor, worth: float, share: float) -> None:
        """A step of the blocks' logits, of at most 1, against the slope of the task's loss + price x slope of the cost.

        No block is pruned unless the budget needs it [our choice]: units already emptied for the budget would not
        recover when a block is pruned later.

        Args:
            slope_of_task: (blocks,) by the logits.
            worth: Value of the whole cost in the task's loss where the price is 1.
            share: Of the search, since the last such step.
        """
        cost, _, slopes = self.cost_and_slopes()
        gradient = slope_of_task + self._price_at(cost) * worth * slopes
        before = self.run.clone()
        self.run.sub_((SKIP * share * gradient).clamp(-1, 1))
        gone = ((before > 0) & (self.run <= 0)).nonzero()[:, 0]
        for block in gone[self.run[gone].argsort(descending=True)].tolist():
            if self.cost_and_slopes()[0] < self.target:
                self.run[block] = before[block]
