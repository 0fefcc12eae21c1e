"""The ridge regressions of compensation, solved in closed form in float64."""

import torch
from torch import Tensor

from xpruner.calibration.moments import Moments
from xpruner.calibration.ridge import ridge
from xpruner.config import CompensateConfig
from xpruner.errors import XPrunerError


def affine_prediction(moments: Moments, kept: Tensor, removed: Tensor, config: CompensateConfig) -> Tensor:
    """B (removed, kept) with x_P - mu_P = B (x_S - mu_S): Sigma_PS (Sigma_SS + lam I)^-1, or zeros for ``mean``."""
    if config.mode == "mean":
        return torch.zeros(len(removed), len(kept), dtype=torch.float64)
    return solve_ridge(
        moments.covariance[kept][:, kept], moments.covariance[kept][:, removed], moments.count, config.ridge
    )


def solve_ridge(covariance: Tensor, cross: Tensor, samples: float, least: float) -> Tensor:
    """Returns (outputs, inputs): cross^T (covariance + lam I)^-1 by a float64 Cholesky factorisation.

    Args:
        covariance: (inputs, inputs) float64.
        cross: (inputs, outputs) float64 covariance of the inputs with what is predicted.
        samples: Rows behind the covariance.
        least: Smallest ridge, as a share of the mean variance.

    Raises:
        XPrunerError: If a statistic is not finite, or the ridge too small for its rounding errors.
    """
    if not (torch.isfinite(covariance).all() and torch.isfinite(cross).all()):
        raise XPrunerError("The calibration statistics are not finite; check the images and use precision fp32.")
    if not len(covariance):
        return cross.T
    lam = ridge(covariance, samples, least)
    factor, failed = torch.linalg.cholesky_ex(covariance + lam * torch.eye(len(covariance), dtype=covariance.dtype))
    if failed:
        raise XPrunerError(f"A ridge of {least:g} is too small for the calibration statistics; raise compensate.ridge.")
    return torch.cholesky_solve(cross, factor).T
