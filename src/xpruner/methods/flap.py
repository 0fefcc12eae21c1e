"""FLAP (An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models", AAAI 2024).

Kept: a channel's score is the variance of its output times the squared norm of its consumer's column. Scores are
standardised over the channels of each layer and module; a head's score is the mean of its channels', and all units are
ranked together, whatever they cost. The mean output of the removed units is added to the bias of their consumer.
Adapted: the common solver meets the budget; an allocation other than the method's own, which compares per cost, sums a
unit's channels without standardising. The method is designed for use without training; here fine-tuning may follow.
"""

from torch import Tensor

from xpruner.calibration.moments import Moments
from xpruner.compensation.fit import compensate
from xpruner.config import CompensateConfig
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._scoring import Scores, allocate
from xpruner.methods.activation_norm import check_consumers, score_channels, sum_over_channels, variance
from xpruner.plan.solver import plan_from_scores
from xpruner.surgery import apply


@register_method("flap", changes_weights=True, check=check_consumers)
def flap(problem: Problem) -> Outcome:
    """Ranks units by standardised fluctuation, or as another allocation asks, and compensates biases."""
    allocation = problem.config.search.allocation
    if allocation == "own":
        channels = score_channels(problem, fluctuation)
        scores = {key: standardised(values).mean(1) for key, values in channels.items()}
        return with_means_in_biases(problem, scores, "flap, standardised")
    scores = allocate(sum_over_channels(problem, fluctuation), problem.units, allocation, problem.budget.resource)
    return with_means_in_biases(problem, scores, f"flap, {allocation}")


def fluctuation(moments: Moments, columns: Tensor) -> Tensor:
    """Returns (channels,) variances times the squared norms of the consumer's (channels, weights) columns."""
    return variance(moments) * columns.square().sum(1)


def standardised(scores: Tensor) -> Tensor:
    """Returns scores with mean 0 and variance 1 over all of them; zeros where they are all equal."""
    centred = scores - scores.mean()
    deviation = centred.square().mean().sqrt()
    return centred / deviation if deviation > 0 else centred


def with_means_in_biases(problem: Problem, scores: Scores, method: str) -> Outcome:
    """Returns the plan of the highest scores; its model has the removed units' means in their consumers' biases."""
    plan = plan_from_scores(problem.units, scores, problem.budget, method)
    model = compensate(
        apply(problem.model, plan), problem.model, plan, problem.calibration, CompensateConfig(mode="mean"),
        precision=problem.config.precision,
    )  # fmt: skip
    return Outcome(plan, model=model)
