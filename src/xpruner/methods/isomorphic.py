"""Isomorphic pruning (Fang et al., ECCV 2024): units are compared only with units of the same structure.

Kept: a unit's score is its Taylor score |w dL/dw|, summed over each of its coupled tensors and averaged over the
tensors, from a few batches; heads, hidden units and embedding channels are never compared with each other, and the same
share of every ranking scope is pruned, the lowest. Adapted: groups are isomorphic when their units are of one kind,
size and cost, which is equivalent to comparing coupled sub-graphs in a vision transformer; the solver finds the share,
and the rest of the budget, less than the cost of one embedding channel, is spent on smaller units [our choice].
"""

import torch
from torch import nn
from torch.nn import functional as F

from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._scoring import Scores, rank_in_scopes
from xpruner.methods.taylor import weight_times_gradient
from xpruner.plan.solver import plan_from_scores
from xpruner.runtime.devices import autocast
from xpruner.runtime.outputs import logits_of
from xpruner.units.weights import resizable_copy, unit_weights


@register_method("isomorphic", ("head", "hidden", "embed"))
def search(problem: Problem) -> Outcome:
    """Keeps the best of every scope, the same share of each."""
    shares = rank_in_scopes(
        taylor_of_weights(problem), problem.units, lambda group: (group.kind, group.size, group.macs, group.params)
    )
    return Outcome(plan_from_scores(problem.units, shares, problem.budget, "isomorphic"))


def taylor_of_weights(problem: Problem) -> Scores:
    """Returns for each unit sum |w dL/dw| over every tensor that surgery cuts with it, averaged over these tensors."""
    model = copy_with_gradients(problem)
    products = unit_weights(model, problem.units, of=weight_times_gradient)
    return {
        key: torch.stack([tensor.abs().sum(1) for tensor in tensors]).mean(0).double().cpu()
        for key, tensors in products.items()
    }


def copy_with_gradients(problem: Problem) -> nn.Module:
    """Returns a resizable copy of the model that holds the gradients of the loss summed over the calibration images."""
    model = resizable_copy(problem.model, problem.units).eval().requires_grad_(True)
    device = next(model.parameters()).device
    model.zero_grad()
    for images, labels in problem.calibration:
        with autocast(problem.config.precision, device):
            logits = logits_of(model(images.to(device)))
        F.cross_entropy(logits.float(), labels.to(device), reduction="sum").backward()
    return model
