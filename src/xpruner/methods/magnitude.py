"""Magnitude: a unit is worth the norm of its weights, those that make it and those that read it (Li et al. 2017)."""

import torch

from xpruner.methods.base import Problem
from xpruner.methods.scoring import Scores, register_score
from xpruner.unit_weights import resizable_copy, unit_weights


@register_score("l1")
def l1(problem: Problem) -> Scores:
    """Returns for each unit the sum of the absolute values of its weights."""
    return _norms(problem, 1)


@register_score("l2")
def l2(problem: Problem) -> Scores:
    """Returns for each unit the Euclidean norm of its weights."""
    return _norms(problem, 2)


def _norms(problem: Problem, order: int) -> Scores:
    weights = unit_weights(resizable_copy(problem.model, problem.units), problem.units)
    return {key: torch.cat(tensors, 1).norm(order, dim=1).cpu() for key, tensors in weights.items()}
