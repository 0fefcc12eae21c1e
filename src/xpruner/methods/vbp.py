"""Variance-Based Pruning (Berisha et al., "Variance-Based Pruning for Accelerating and Compressing Trained Networks",
ICCV 2025), extended to heads.

Kept: the hidden units of an MLP whose activation, after the non-linearity, varies least are pruned, ranked over all
layers together, and their mean is added to the bias of their consumer. Adapted [our choice]: heads are scored the same
way, by the variance summed over their channels, because pruning MLPs alone cannot meet small budgets; and scores are
compared per cost, which does not change the order of a ViT's hidden units, because all of them cost the same. With the
kind ``hidden`` alone, it is the paper's method.
"""

from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._scoring import allocate, allocation_of
from xpruner.methods.activation_norm import check_consumers, sum_over_channels, variance
from xpruner.methods.flap import with_means_in_biases


@register_method("vbp", changes_weights=True, check=check_consumers)
def vbp(problem: Problem) -> Outcome:
    """Removes the units that vary least and adds their means to their consumers' biases."""
    variances = sum_over_channels(problem, lambda moments, _columns: variance(moments))
    chosen = allocation_of(problem, "global")
    return with_means_in_biases(
        problem, allocate(variances, problem.units, chosen, problem.budget.resource), f"vbp, {chosen}"
    )
