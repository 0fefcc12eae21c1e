"""A method: units are scored by the weights of the layer that reads them."""

from dataclasses import dataclass

import torch

from xpruner import Problem, register_score


@dataclass
class ReaderNormOptions:
    """The method's own options, given to a run as ``search.options``.

    Attributes:
        order: Of the norm: 1 for the sum of magnitudes, 2 for the Euclidean one.
    """

    order: float = 2.0


@register_score("reader_norm", options=ReaderNormOptions)
def reader_norm(problem: Problem) -> dict[str, torch.Tensor]:
    """Returns for each group's key (units,) norms of what the unit's consumer multiplies it by; higher is kept."""
    scores = {}
    for group in problem.units:
        weight = problem.model.get_submodule(group.consumer).weight.detach()  # (outputs, channels, ...)
        of_units = weight[:, group.channels].flatten(2)  # (outputs, units, weights of one unit)
        scores[group.key] = torch.linalg.vector_norm(of_units, problem.options.order, dim=(0, 2))
    return scores
