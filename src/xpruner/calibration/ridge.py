"""How much ridge a least-squares solve gets."""

import torch
from torch import Tensor

from xpruner.calibration.moments import Moments


def oas_shrinkage(covariance: Tensor, samples: float) -> float:
    """Returns the oracle-approximating shrinkage of a covariance, from 0 to 1 (Chen et al. 2010, equation 23).

    A single variable has nothing to be shrunk towards: 0.
    """
    p = len(covariance)
    if p == 1:
        return 0.0
    trace, trace_of_square = covariance.trace().item(), (covariance**2).sum().item()
    denominator = (samples + 1 - 2 / p) * (trace_of_square - trace**2 / p)
    if denominator <= 0:
        return 1.0
    return min(1.0, ((1 - 2 / p) * trace_of_square + trace**2) / denominator)


def ridge(covariance: Tensor, samples: float, least: float = 1e-3) -> float:
    """Returns lambda = max(``least``, OAS shrinkage) x trace / p, the ridge of every solve here; never quite 0."""
    scale = covariance.trace().item() / len(covariance)
    return max(least, oas_shrinkage(covariance, samples)) * scale + torch.finfo(torch.float64).tiny


def ridged_covariance(moments: Moments, least: float = 1e-3) -> Tensor:
    """Returns Sigma + lambda I, of a layer's input."""
    covariance = moments.covariance
    lam = ridge(covariance, moments.count, least)
    return covariance + lam * torch.eye(len(covariance), dtype=covariance.dtype)
