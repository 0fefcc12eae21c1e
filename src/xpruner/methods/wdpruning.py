"""WDPruning-style: saliencies and one threshold a group are learned together with the weights (Yu et al., AAAI 2022).

Kept of the paper: every head and hidden unit has a saliency and every group a threshold theta; the mask keeps the top
ceil(sigmoid(theta) n) units by saliency, theta starts at 10 (dense), gradients pass straight through; the loss is the
cross-entropy of the network and of shallow classifiers, plus lam1 (rho - R) + lam2 (rho - R)^2 while the share rho of
the cost is above the budget R, with ascent on both lam; AdamW trains all weights, class token and position embedding
among them, and never decays saliencies and thresholds.

Adapted [our choice]:

- proj and fc2 lose no output rows: these are channels of the residual stream, which a stock model cannot lose in a
  single layer.
- The rates of the thresholds and of the ascent are divided by the number of updates, so that after about half of them
  the share of the cost is at most 0.05 above the budget, however few they are. Thresholds have no momentum, which at
  such rates would overshoot the budget by far. As in the paper, nothing raises the cost again once it is below.
- Saliencies start at up to ``TIE_BREAK``, in the order of Taylor's evidence from the labels of the calibration images;
  the paper's are all 0, ties that only training breaks. The ranking starts as another method's, which gives this
  version an advantage over the paper's, the more so the shorter the search.
- Hidden counts are multiples of 16 in groups of at least 256 units, where that is no more than a sixteenth; smaller
  groups and heads count by one. The plan itself rounds as the budget asks.
- The shallow classifiers read the mean of a block's tokens and serve only as training losses: no block is removed,
  since a classifier that takes the place of later blocks would change more than units.
- The plan continues the thresholds: one common offset of all theta meets the budget.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.masks.evidence import class_evidence
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._weight_search import LR, WeightRecipe, check_training, identity, loop_options, trainable_copy
from xpruner.plan.budget import minimum
from xpruner.plan.solver import plan_from_scores
from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import capture_inputs
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import logits_of
from xpruner.surgery import apply
from xpruner.thresholds.operation import AugmentedLagrangian, expected_cost
from xpruner.training.search import Loop, learn
from xpruner.units import UnitGroup, Units, prunable_parts
from xpruner.units.gates import gating

THETA_START = 10.0
THETA_TRAVEL = 100.0
"""Rate of the thresholds times the number of updates: the distance of 10 from dense to a half takes at least a tenth of
them. The paper's 0.0025 in 100 epochs of ImageNet makes it 625: the same distance in fewer, longer steps."""
SALIENCY_LR, TIE_BREAK = 1e-3, 0.1
LAMBDA_RATE = 20.0
"""Ascent rate of lam1 times the number of updates; with more, all thresholds fall together regardless of the task, with
less, the cost remains far above the budget."""
SHALLOW = (2 / 3, 5 / 6)
"""Shares of the depth at which shallow classifiers are attached."""


@register_method("wdpruning", changes_weights=True, check=check_training)
def search(problem: Problem) -> Outcome:
    """Learns saliencies and thresholds together with the weights of a copy, and returns it pruned.

    Raises:
        UsageError: If the budget is out of reach.
    """
    options, run = loop_options(problem, "wdpruning"), _Run(problem)
    optimizer, before = run.recipe.optimizer, run.recipe.before
    steps = problem.config.search.steps
    loop = Loop("learning widths", run.learned, optimizer, run.loss, steps, identity(problem), before=before)
    learn(loop, problem.train, options)
    plan = plan_from_scores(problem.units, run.widths.margins(), problem.budget, "wdpruning")
    optimizer.zero_grad()
    with torch.no_grad():
        cost = expected_cost(run.widths(), problem.units, problem.budget.resource).item()
    return Outcome(plan, figures={"cost": cost}, model=apply(run.model.eval(), plan))


class _Run:
    """The loss of a step, and all that it needs; all state that changes is in ``learned``, so that a search can
    resume."""

    def __init__(self, problem: Problem):
        self.problem, self.steps = problem, max(problem.config.search.steps, 1)
        self.resource = problem.budget.resource
        self.target = problem.budget.target(problem.units) / problem.units.total(self.resource)
        device = next(problem.model.parameters()).device
        self.model = trainable_copy(problem.model)
        self.widths = Widths(problem.units, _tie_breaks(problem))
        self.shallow = ShallowClassifiers(_widths_below(problem, shallow_places(problem.model)), problem.num_classes)
        self.constraint = AugmentedLagrangian(LAMBDA_RATE / self.steps)
        parts = {"model": self.model, "widths": self.widths, "shallow": self.shallow, "constraint": self.constraint}
        self.learned = nn.ModuleDict(parts).to(device)
        theta, no_momentum = {"lr": THETA_TRAVEL / self.steps}, {"betas": (0.0, 0.99)}
        others = [
            {"params": list(self.shallow.parameters()), "lr": LR, "weight_decay": 0.0},
            {"params": list(self.widths.saliencies), "lr": SALIENCY_LR, "weight_decay": 0.0},
            {"params": [self.widths.theta], "weight_decay": 0.0, **theta, **no_momentum},
        ]
        self.recipe = WeightRecipe(self.model, problem, others)

    def loss(self, _progress: float, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss of all classifiers plus the price of the budget, and the figures to log."""
        masks = self.widths()
        with (
            capture_inputs(self.model, self.shallow.paths) as inputs,
            gating(self.model, self.problem.units, masks),
            autocast(self.problem.config.precision, images.device),
        ):
            logits = logits_of(self.model(images))
        task = F.cross_entropy(logits.float(), labels)
        loss = task + self.shallow.loss(inputs, labels)
        cost = expected_cost(masks, self.problem.units, self.resource)
        if cost.item() > self.target:
            loss = loss + self.constraint(cost, self.target)
            self.constraint.ascend(cost.item(), self.target)
        return loss, {"task": task.item(), "cost": cost.item()}


class TopShare(torch.autograd.Function):
    """The mask of the top units by saliency; its gradients pass straight through."""

    @staticmethod
    def forward(ctx, saliency: Tensor, theta: Tensor, count: int) -> Tensor:
        """Returns a (units,) mask of 0 and 1 that keeps ``count`` units, the number given by theta."""
        mask = torch.zeros_like(saliency)
        mask[saliency.argsort(descending=True, stable=True)[:count]] = 1
        ctx.save_for_backward(mask)
        return mask

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Returns g for the saliencies and the sum of g x mask for theta."""
        (mask,) = ctx.saved_tensors
        return gradient, (gradient * mask).sum(), None


class Widths(nn.Module):
    """The saliencies of all units and the threshold of every group.

    Args:
        units: The groups.
        start: For each group's key (units,) saliencies to start with.
    """

    def __init__(self, units: Units, start: Mapping[str, Tensor]):
        super().__init__()
        self.units = units
        self.saliencies = nn.ParameterList(nn.Parameter(start[group.key].clone()) for group in units)
        self.theta = nn.Parameter(torch.full((len(units),), THETA_START))

    def forward(self) -> dict[str, Tensor]:
        """Returns the mask (units,) of every group by its key."""
        shares = torch.sigmoid(self.theta).tolist()
        return {
            group.key: TopShare.apply(saliency, theta, kept_count(group, share))
            for group, saliency, theta, share in zip(self.units, self.saliencies, self.theta, shares, strict=True)
        }

    @torch.no_grad()
    def margins(self) -> dict[str, Tensor]:
        """Returns for each group (units,) margins: raising every theta by an offset keeps the units with margins above
        minus the offset.

        The unit of rank r, from 0 for the best, is among sigmoid(theta) n once theta is above logit(r / n).
        """
        margins = {}
        for group, saliency, theta in zip(self.units, self.saliencies, self.theta, strict=True):
            best_first = saliency.argsort(descending=True, stable=True)
            needed = torch.logit((torch.arange(group.size, dtype=torch.double) + 0.5) / group.size)
            margins[group.key] = torch.empty(group.size, dtype=torch.double)
            margins[group.key][best_first.cpu()] = theta.item() - needed
        return margins


def kept_count(group: UnitGroup, share: float) -> int:
    """Returns ceil(share x units), of many hidden units the nearest multiple of 16; at least the group's minimum."""
    count = math.ceil(share * group.size)
    if group.kind == "hidden" and group.size >= 256 and count < group.size:
        count = round(count / 16) * 16
    return min(group.size, max(count, minimum(group)))


class ShallowClassifiers(nn.Module):
    """Linear classifiers on the mean of the tokens that some blocks read; zero at the start.

    Args:
        widths: For the path of each block how many channels it reads.
        num_classes: Of the labels.
    """

    def __init__(self, widths: Mapping[str, int], num_classes: int):
        super().__init__()
        self.paths = tuple(widths)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths.values())
        self.heads = nn.ModuleList(nn.Linear(width, num_classes) for width in widths.values())
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)

    def loss(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor | float:
        """Returns the sum of the classifiers' cross-entropies; the inputs are (batch, ..., dim) by path."""
        means = (inputs[path].float().flatten(1, -2).mean(1) for path in self.paths)
        layers = zip(self.norms, self.heads, means, strict=True)
        return sum(F.cross_entropy(head(norm(mean)), labels) for norm, head, mean in layers)


def shallow_places(model: nn.Module) -> list[str]:
    """Returns the paths of the blocks whose input a shallow classifier reads; none for a model without blocks."""
    blocks = [part.path for part in prunable_parts(model).values() if part.adapter.kind == "block"]
    numbers = {round(share * len(blocks)) for share in SHALLOW}
    return [path for number, path in enumerate(blocks) if number in numbers and number > 0]


@torch.no_grad()
def _widths_below(problem: Problem, paths: Iterable[str]) -> dict[str, int]:
    images = next(iter(problem.calibration))[0][:1].to(next(problem.model.parameters()).device)
    with evaluating(problem.model), capture_inputs(problem.model, paths) as inputs:
        problem.model(images)
    return {path: inputs[path].shape[-1] for path in paths}


def _tie_breaks(problem: Problem) -> dict[str, Tensor]:
    """Returns for each unit ``TIE_BREAK`` times the share of its group with less evidence."""
    evidence = class_evidence(
        problem.model, problem.units, problem.calibration, problem.num_classes, precision=problem.config.precision
    )
    scores = {key: table.mean(0) for key, table in evidence.items()}
    return {key: TIE_BREAK * torch.searchsorted(s.sort().values, s) / len(s) for key, s in scores.items()}
