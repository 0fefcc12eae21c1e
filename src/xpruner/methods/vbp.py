"""Variance-Based Pruning (Berisha et al., "Variance-Based Pruning for Accelerating and Compressing Trained Networks",
ICCV 2025), extended to heads.

Kept: the hidden units of an MLP whose activation, behind the non-linearity, varies least go, ranked over all layers
together, and their mean goes into the bias of the layer that reads them. Adapted [our choice]: a head is scored alike,
by the variance summed over its channels, because MLPs alone cannot give up as much as small budgets ask; and scores are
compared per cost, which leaves the order of a ViT's hidden units as it is, for all of them cost the same. Asked for the
kind ``hidden`` alone, it is the paper's.
"""

from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._scoring import allocate, allocation_of
from xpruner.methods.activation_norm import check_consumers, sum_over_channels, variance
from xpruner.methods.flap import with_means_in_biases


@register_method("vbp", changes_weights=True, check=check_consumers)
def vbp(problem: Problem) -> Outcome:
    """Removes the units that vary least and adds their means to the biases that read them."""
    variances = sum_over_channels(problem, lambda moments, _columns: variance(moments))
    chosen = allocation_of(problem, "global")
    return with_means_in_biases(
        problem, allocate(variances, problem.units, chosen, problem.budget.resource), f"vbp, {chosen}"
    )
