"""CORP-style pruning: closed-form, one-shot, representation-preserving (Zhang and Yang, arXiv 2602.05243, 2026).

Kept: MLP hidden units and query-key dimensions are pruned without labels, gradients or training; the removed
activations are modelled as an affine function of the kept ones, and the ridge regressions that fit it are folded into
the weights. For hidden units that is the affine compensation of ``fc2``. For query-key dimensions the logits are
matched: with those of the removed dimensions P regressed on the kept ones S, q_P = B_q q_S + c_q and k_P = B_k k_S +
c_k,

    q_P' k_P = (B_q q_S + c_q)' B_k k_S + (a term equal for all keys, which softmax ignores),

so that queries (I + B_k' B_q) q_S + B_k' c_q in place of q_S compensate for them.

Adapted: dimension j is removed from all heads of a layer together (where the run rotates heads, each head's dimensions
are sorted first); queries and keys are regressed separately, which is the least squares of their products when query
and key are drawn independently; every layer keeps the same share. Hidden units rank by their variance times the squared
norm of their column, dimensions by the mean of (q_j (k_j - mean k_j))^2, summed over the heads. With 8 hidden units and
4 dimensions kept in every layer, a quarter of DeiT-tiny's MACs remain, and a fifth of DeiT-B's. Heads or value
dimensions, where a run asks for them, are treated like hidden units, with ``proj`` for ``fc2`` [our choice].
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from xpruner.calibration.moments import Moments
from xpruner.compensation.fit import compensate
from xpruner.compensation.solve import solve_ridge
from xpruner.config import CompensateConfig
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._scoring import Scores, allocate, allocation_of
from xpruner.methods.activation_norm import check_consumers, mean_square, sum_over_channels, variance
from xpruner.methods.flap import fluctuation
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import hooked
from xpruner.runtime.modes import evaluating
from xpruner.surgery import apply
from xpruner.units import Units

HeadMoments = dict[str, list[Moments]]
"""For each attention's path the moments of every head's [q; k], 2 x width variables."""


def check_units(problem: Problem) -> None:
    """Raises UsageError for units without a consumer that are not query-key dimensions, such as blocks."""
    check_consumers(_without_queries(problem))


@register_method("corp", ("hidden", "qk"), rotates=True, changes_weights=True, check=check_units)
def search(problem: Problem) -> Outcome:
    """Keeps the same share of every layer, or as another allocation asks, and folds the regressions into the
    weights."""
    moments = query_key_moments(problem)
    allocation = allocation_of(problem, "uniform")
    scores = allocate(energies(problem, moments), problem.units, allocation, problem.budget.resource)
    plan = plan_from_scores(problem.units, scores, problem.budget, "corp")
    config = CompensateConfig(mode="affine", ridge=problem.config.compensate.ridge)
    model = compensate(
        apply(problem.model, plan), problem.model, plan, problem.calibration, config, precision=problem.config.precision
    )
    match_logits(model, plan, moments, config.ridge)
    return Outcome(plan, model=model)


def _without_queries(problem: Problem) -> Problem:
    others = tuple(group for group in problem.units if group.kind != "qk")
    return replace(problem, units=Units(others, 0, 0, (0, 0, 0)))


def energies(problem: Problem, moments: HeadMoments) -> Scores:
    """Returns for each unit the energy that it adds to the logits, or to the output of its consumer."""
    scores = sum_over_channels(_without_queries(problem), fluctuation)
    for path, heads in moments.items():
        scores[f"{path}:qk"] = sum((logit_energy(head) for head in heads), torch.zeros(()))
    return scores


def logit_energy(head: Moments) -> Tensor:
    """Returns the (width,) mean of (q_j (k_j - mean k_j))^2 over independent queries and keys of a head."""
    return mean_square(head).chunk(2)[0] * variance(head).chunk(2)[1]


@torch.no_grad()
def query_key_moments(problem: Problem) -> HeadMoments:
    """Returns the moments of all heads' queries and keys, over all tokens of the calibration images."""
    model = problem.model
    attentions = {group.module: model.get_submodule(group.module) for group in problem.units if group.kind == "qk"}
    device = next(model.parameters()).device
    moments: HeadMoments = {}
    with evaluating(model), hooked(_hooks(attentions, moments)):
        if attentions:
            for images, _ in problem.calibration:
                with autocast(problem.config.precision, device):
                    model(images.to(device))
    return moments


def _hooks(attentions: dict[str, Any], moments: HeadMoments) -> Iterator[RemovableHandle]:
    """Registers the hooks that collect the moments of every attention."""
    for path, attention in attentions.items():
        layer, stacked = (attention.qk, 2) if hasattr(attention, "qk") else (attention.qkv, 3)
        width = layer.out_features // (stacked * attention.num_heads)
        moments[path] = [Moments(2 * width) for _ in range(attention.num_heads)]

        def note(_module, _args, output, heads=moments[path], width=width):
            stacks = output[..., : 2 * len(heads) * width].unflatten(-1, (2, len(heads), width))
            for number, head in enumerate(heads):
                head.update(stacks[..., number, :].flatten(-2))

        yield layer.register_forward_hook(note)


@torch.no_grad()
def match_logits(pruned: nn.Module, plan: Plan, moments: HeadMoments, least: float) -> None:
    """Changes the queries of the pruned model so that its logits come closest to the dense ones, in place.

    Args:
        pruned: The dense model cut by the plan.
        plan: What was kept.
        moments: Of the dense model's heads.
        least: Smallest ridge, as a share of the mean variance.

    Raises:
        XPrunerError: If the statistics are not finite, or the ridge too small for its rounding errors.
    """
    gates = plan.gates()
    for path, heads in moments.items():
        gate = gates[f"{path}:qk"]
        kept, removed = gate.nonzero()[:, 0], (gate == 0).nonzero()[:, 0]
        if not len(removed):
            continue
        layer: Any = pruned.get_submodule(path).qk
        left = plan.keep.get(f"{path}:head", range(len(heads)))
        for number, head in enumerate(left):
            rows = slice(number * len(kept), (number + 1) * len(kept))
            turn, shift = _closest(heads[head], kept, removed, layer.bias is not None, least)
            layer.weight[rows] += (turn @ layer.weight[rows].double().cpu()).to(layer.weight)
            if layer.bias is not None:
                layer.bias[rows] += (turn @ layer.bias[rows].double().cpu() + shift).to(layer.bias)


def _closest(head: Moments, kept: Tensor, removed: Tensor, biased: bool, least: float) -> tuple[Tensor, Tensor]:
    """Returns B_k' B_q (kept, kept) and B_k' c_q (kept,); queries without a bias are regressed without c_q."""
    width = len(kept) + len(removed)
    covariance = head.covariance
    queries = covariance if biased else head.second
    by_query = solve_ridge(queries[kept][:, kept], queries[kept][:, removed], head.count, least)
    own, lost = kept + width, removed + width
    by_key = solve_ridge(covariance[own][:, own], covariance[own][:, lost], head.count, least)
    constant = head.mean[removed] - by_query @ head.mean[kept]
    return by_key.T @ by_query, by_key.T @ constant
