"""FLAP (An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models", AAAI 2024).

Kept: a channel is worth the variance of what it hands on times the squared norm of the column that reads it; a head
the sum over its channels. Scores are standardised within each layer and module and ranked together across all of them,
whatever a unit costs, and what the removed units are on average goes into the bias of their reader. Adapted: the common
solver meets the budget. The method is made for use without training; here fine-tuning may follow.
"""

from torch import Tensor

from xpruner.compensation import compensate
from xpruner.config import CompensateConfig
from xpruner.methods.activation import sum_over_channels, variance
from xpruner.methods.base import Outcome, Problem, register_method
from xpruner.methods.scoring import Scores, allocate
from xpruner.plan import solve
from xpruner.surgery import apply


@register_method("flap")
def flap(problem: Problem) -> Outcome:
    """Ranks units by standardised fluctuation, or as another allocation asks, and compensates biases."""
    scores, allocation = fluctuation(problem), problem.config.search.allocation
    if allocation == "own":
        scores = {key: standardised(values) for key, values in scores.items()}
        return with_means_in_biases(problem, scores, "flap, standardised")
    scores = allocate(scores, problem.units, allocation, problem.budget.resource)
    return with_means_in_biases(problem, scores, f"flap, {allocation}")


def fluctuation(problem: Problem) -> Scores:
    """Returns for each unit the variance of its channels times the squared norms of the columns that read them."""
    return sum_over_channels(problem, lambda moments, columns: variance(moments) * columns.square().sum(1))


def standardised(scores: Tensor) -> Tensor:
    """Returns (units,) scores with mean 0 and variance 1; zeros where they are all alike."""
    centred = scores - scores.mean()
    deviation = centred.square().mean().sqrt()
    return centred / deviation if deviation > 0 else centred


def with_means_in_biases(problem: Problem, scores: Scores, method: str) -> Outcome:
    """Returns the plan of the highest scores, and its model with the removed units' means in their readers' biases."""
    plan = solve(problem.units, scores, problem.budget, method)
    model = compensate(
        apply(problem.model, plan), problem.model, plan, problem.calibration, CompensateConfig(mode="mean"),
        precision=problem.config.precision,
    )  # fmt: skip
    return Outcome(plan, model=model)
