"""Wanda-style: weights times activations, for whole units (after Sun et al., ICLR 2024).

The paper scores single weights, |W_ij| times the norm of input j, and prunes the same share of every output. Here a
unit's score is the sum of these over all weights that read it, and every layer keeps the same share [our choice]. The
norm is a root mean square over the tokens, which is the paper's up to a factor common to a layer.
"""

from xpruner.methods._problem import Problem
from xpruner.methods._scoring import Scores, register_score
from xpruner.methods.activation_norm import check_consumers, mean_square, sum_over_channels


@register_score("wanda", allocation="uniform", check=check_consumers)
def wanda(problem: Problem) -> Scores:
    """Returns for each unit the sum over the weights that read it of |weight| times the norm of its input."""
    return sum_over_channels(problem, lambda moments, columns: columns.abs().sum(1) * mean_square(moments).sqrt())
