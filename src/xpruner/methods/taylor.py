"""Taylor: the squared gradient of the loss with respect to a unit's gate (Molchanov et al., CVPR 2019).

A gate multiplies the unit's output; its gradient is the first-order change of the loss when the unit is removed. It is
squared for each calibration image and averaged over them: every image counts equally, whatever its class.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xpruner.masks.evidence import gate_slopes
from xpruner.methods._problem import Problem
from xpruner.methods._scoring import Scores, register_score


@register_score("taylor")
def taylor(problem: Problem) -> Scores:
    """Returns for each unit the mean over the calibration images of the squared gradient of its gate."""
    return mean_over_images(problem, torch.square)


def mean_over_images(problem: Problem, of: Callable[[Tensor], Tensor]) -> Scores:
    """Returns for each unit the mean over the calibration images of a function of the gradient of its gate."""
    sums = {group.key: torch.zeros(group.size, dtype=torch.double) for group in problem.units}
    count = 0
    with gate_slopes(problem.model, problem.units, problem.config.precision) as slopes_of:
        for images, labels in problem.calibration:
            count += len(labels)
            for key, slopes in slopes_of(images, labels)[0].items():
                sums[key] += of(slopes.double()).sum(0).cpu()
    return {key: total / count for key, total in sums.items()}


def weight_times_gradient(parameter: nn.Parameter) -> Tensor:
    """Returns w dL/dw in the shape of the parameter; zeros for one that the loss does not depend on."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.detach() * parameter.grad
