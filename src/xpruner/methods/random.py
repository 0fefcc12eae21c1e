"""Chance: the control that no criterion may fall below.

A unit's worth per cost is drawn uniformly [our choice]: were it the worth itself, what costs much, such as a head,
would nearly always go before what costs little wherever scores are compared per cost. By its own allocation every layer
keeps the same share.
"""

import torch

from xpruner.methods._problem import Problem
from xpruner.methods._scoring import Scores, register_score


@register_score("random", allocation="uniform")
def random(problem: Problem) -> Scores:
    """Returns for each unit its cost times a number that is uniform on [0, 1), the same for the same seed."""
    generator = torch.Generator().manual_seed(problem.config.seed)
    resource = problem.budget.resource
    return {
        group.key: torch.rand(group.size, generator=generator) * getattr(group, resource) for group in problem.units
    }
