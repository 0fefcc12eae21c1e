"""Magnitude: a unit's score is the norm of its weights, those of its producer and of its consumer (Li et al. 2017).

The Euclidean norm is squared, so that it adds up over a unit's weights, as its cost does [our choice]; the order within
a layer is unchanged.
"""

import torch

from xpruner.methods._problem import Problem
from xpruner.methods._scoring import Scores, register_score
from xpruner.units.weights import resizable_copy, unit_weights


@register_score("l1")
def l1(problem: Problem) -> Scores:
    """Returns for each unit the sum of the absolute values of its weights."""
    return _power_sums(problem, 1)


@register_score("l2")
def l2(problem: Problem) -> Scores:
    """Returns for each unit the sum of the squares of its weights."""
    return _power_sums(problem, 2)


def _power_sums(problem: Problem, power: int) -> Scores:
    weights = unit_weights(resizable_copy(problem.model, problem.units), problem.units)
    return {key: torch.cat(tensors, 1).abs().pow(power).sum(1).cpu() for key, tensors in weights.items()}
