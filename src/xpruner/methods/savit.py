"""SAViT-style pruning (Zheng et al., NeurIPS 2022): heads, hidden units and embedding channels are cut together.

Kept: a gate g on every head, hidden unit and channel of the shared embedding; a unit's score is (g dL/dg)^2;
interactions between the kinds of unit are measured by their 3 x 3 curvature, by double backward; an evolutionary search
chooses the ratios of heads and of channels, and the budget determines the ratio of hidden units; within a kind units
are compared over the whole network.

Adapted: the paper prunes by training statistics of a tenth of ImageNet; here the calibration images give the scores,
and a tenth of them the curvature. The curvature is between three gates, one common to all units of a kind; a plan that
removes some units of a kind is modelled as moving its gate by their share of the kind's slopes, the roots of the scores
[our choice]. The ratio of hidden units is bisected with the real cost of every layer; the solver decides the last
percent, so that the budget is met.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._scoring import Scores, rank_in_scopes
from xpruner.methods.taylor import mean_over_images
from xpruner.plan.budget import Budget
from xpruner.plan.solver import plan_from_scores
from xpruner.runtime.modes import frozen
from xpruner.runtime.outputs import logits_of
from xpruner.units import Units
from xpruner.units.gates import gating

Ratios = tuple[float, ...]
"""The removed share of every kind except the one that the budget determines."""
CURVATURE_EVERY = 10
"""One image in so many is used for the curvature."""
POPULATION, PARENTS, GENERATIONS = 16, 4, 8
MUTATION = 0.1
"""Standard deviation of a child's ratios around the mean of its parents'."""
MOST_REMOVED = 0.9


@register_method("savit", ("head", "hidden", "embed"))
def search(problem: Problem) -> Outcome:
    """Evolves the ratios of the kinds and returns the plan with the least estimated increase of the loss."""
    scores = mean_over_images(problem, torch.square)  # g is 1, so g dL/dg is the slope
    shares = rank_in_scopes(scores, problem.units, lambda group: group.kind)
    kinds = list(dict.fromkeys(group.kind for group in problem.units))
    matrix = curvature(problem, kinds)
    follows = "hidden" if "hidden" in kinds else kinds[-1]
    chosen = [kind for kind in kinds if kind != follows]

    def increase(ratios: Ratios) -> float:
        wanted = dict(zip(chosen, ratios, strict=True))
        wanted[follows] = fitting_ratio(problem.units, shares, wanted, follows, problem.budget)
        return loss_increase(removed_at(shares, wanted), scores, matrix, kinds) if wanted[follows] < 1 else math.inf

    best = evolve(increase, len(chosen), problem.config.seed)
    layers = layered(shares, dict(zip(chosen, best, strict=True)))
    return Outcome(plan_from_scores(problem.units, layers, problem.budget, "savit"))


def curvature(problem: Problem, kinds: list[str]) -> Tensor:
    """Returns the (kinds, kinds) second derivatives of the mean loss by one common gate for each kind.

    The attention kernel is the plain one and the precision fp32: fused kernels have no second derivative.

    Negative curvature is dropped: it would reward removal beyond the range where the quadratic holds [our choice].
    """
    model, units = problem.model, problem.units
    device = next(model.parameters()).device
    total, count = torch.zeros(len(kinds), len(kinds), dtype=torch.double), 0
    with frozen(model), sdpa_kernel(SDPBackend.MATH):
        for images, labels in _every(problem.calibration, CURVATURE_EVERY):
            common = torch.ones(len(kinds), device=device, requires_grad=True)
            gates = {group.key: common[kinds.index(group.kind)].expand(group.size) for group in units}
            with gating(model, units, gates):
                logits = logits_of(model(images.to(device)))
            loss = F.cross_entropy(logits.float(), labels.to(device), reduction="sum")
            (slope,) = torch.autograd.grad(loss, common, create_graph=True)
            total += torch.stack([torch.autograd.grad(s, common, retain_graph=True)[0] for s in slope]).double().cpu()
            count += len(labels)
    return convex((total + total.T) / (2 * count))


def convex(matrix: Tensor) -> Tensor:
    """Returns a symmetric matrix without its directions of negative curvature."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.clamp(min=0).diag() @ vectors.T


def _every(batches: Iterable[tuple[Tensor, Tensor]], step: int) -> Iterator[tuple[Tensor, Tensor]]:
    return ((images[::step], labels[::step]) for images, labels in batches)


def removed_at(shares: Scores, ratios: Mapping[str, float]) -> dict[str, Tensor]:
    """Returns for each group's key which of its (units,) are in the removed share of their kind."""
    return {key: share <= ratios[_kind(key)] for key, share in shares.items()}


def fitting_ratio(units: Units, shares: Scores, ratios: Mapping[str, float], follows: str, budget: Budget) -> float:
    """Returns the smallest removed share of one kind that meets the budget; 1 where none is enough.

    Args:
        units: The groups.
        shares: The rank of every unit within its kind.
        ratios: Removed shares of the other kinds.
        follows: The kind that the budget determines.
        budget: The cost to meet.
    """
    target = budget.target(units)
    low, high = 0.0, 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        removed = removed_at(shares, {**ratios, follows: middle})
        kept = {key: 1 - each.double().mean().item() for key, each in removed.items()}
        if units.cost_of(kept, budget.resource) > target:
            low = middle
        else:
            high = middle
    return high


def _kind(key: str) -> str:
    return key.rpartition(":")[2]


def layered(shares: Scores, ratios: Mapping[str, float]) -> Scores:
    """Returns scores by which the solver first keeps the chosen kinds up to their ratios, then the best of the rest.

    The removed units of the chosen kinds rank last; they are kept only if the other kind alone cannot use up the
    budget.
    """

    def layer(share: Tensor, kind: str) -> Tensor:
        return torch.where(share > ratios[kind], share + 2, share) if kind in ratios else share + 1

    return {key: layer(share, _kind(key)) for key, share in shares.items()}


def loss_increase(gone: Mapping[str, Tensor], scores: Scores, matrix: Tensor, kinds: list[str]) -> float:
    """Returns half the scores of the removed units plus half m' C m, with m the removed share of each kind's slopes.

    Args:
        gone: For each group's key which of its (units,) are removed.
        scores: The squared slopes.
        matrix: C, the (kinds, kinds) curvature.
        kinds: Their names.
    """
    own = 0.0
    removed, whole = torch.zeros(2, len(kinds), dtype=torch.double)
    for key, score in scores.items():
        kind = kinds.index(_kind(key))
        own += score[gone[key]].sum().item()
        removed[kind] += score[gone[key]].sqrt().sum()
        whole[kind] += score.sqrt().sum()
    moved = removed / whole.clamp(min=torch.finfo(torch.double).tiny)
    return 0.5 * (own + (moved @ matrix @ moved).item())


def evolve(increase: Callable[[Ratios], float], length: int, seed: int) -> Ratios:
    """Returns the ratios with the least increase that an evolutionary search finds.

    The first generation is drawn evenly from 0 to ``MOST_REMOVED``. The best ``PARENTS`` of each generation survive,
    and the others are replaced by the mean of two of them, mutated.

    Args:
        increase: What to minimise.
        length: How many ratios there are.
        seed: Of the draws.
    """
    draw = random.Random(seed)
    population = [tuple(draw.uniform(0, MOST_REMOVED) for _ in range(length)) for _ in range(POPULATION)]
    known = {ratios: increase(ratios) for ratios in population}
    for _ in range(GENERATIONS):
        parents = sorted(known, key=known.__getitem__)[:PARENTS]
        for _ in range(POPULATION - PARENTS):
            child = _child(draw.choice(parents), draw.choice(parents), draw)
            if child not in known:
                known[child] = increase(child)
    return min(known, key=known.__getitem__)


def _child(first: Ratios, second: Ratios, draw: random.Random) -> Ratios:
    mutated = ((a + b) / 2 + draw.gauss(0, MUTATION) for a, b in zip(first, second, strict=True))
    return tuple(min(MOST_REMOVED, max(0.0, ratio)) for ratio in mutated)
