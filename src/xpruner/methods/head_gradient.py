"""Head gradient (Michel et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019), extended to hidden units.

A head's importance is the mean over the images of the absolute gradient of the loss with respect to its gate,
l2-normalised within each layer, and the heads of all layers are ranked together. Hidden units are scored in the same
way [our choice]. So that a layer of three heads and one of a thousand hidden units can be ranked together, the
normalised importance is squared [our choice]: the order within a layer, and of all heads of a ViT, is the paper's, and
every layer's scores sum to one, whatever its size.
"""

import torch

from xpruner.methods._problem import Problem
from xpruner.methods._scoring import Scores, register_score
from xpruner.methods.taylor import mean_over_images


@register_score("head_gradient")
def head_gradient(problem: Problem) -> Scores:
    """Returns for each unit the square of its importance, l2-normalised within its layer."""
    importance = mean_over_images(problem, torch.abs)
    return {key: torch.nn.functional.normalize(values, dim=0).square() for key, values in importance.items()}
