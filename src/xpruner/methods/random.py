"""Random: the control that every criterion must beat.

A unit's score per cost is drawn uniformly [our choice]: if the score itself were, expensive units, such as heads, would
nearly always be pruned before cheap ones wherever scores are compared per cost. By its own allocation every layer keeps
the same share.
"""

import torch

from xpruner.methods._problem import Problem
from xpruner.methods._scoring import Scores, register_score


@register_score("random", allocation="uniform")
def random(problem: Problem) -> Scores:
    """Returns for each unit its cost times a number that is uniform on [0, 1), reproducible by the seed."""
    generator = torch.Generator().manual_seed(problem.config.seed)
    resource = problem.budget.resource
    return {
        group.key: torch.rand(group.size, generator=generator) * getattr(group, resource) for group in problem.units
    }
