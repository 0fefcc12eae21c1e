"""The ridge regressions of compensation, solved in closed form in float64."""

from typing import Any

import torch
from torch import Tensor, nn

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


@torch.no_grad()
def add_to(layer: Any, weight: Tensor, bias: Tensor, key: str) -> None:
    """Adds a solution to the weight and the bias of a layer, which gets a bias where it has none.

    Args:
        layer: A linear layer or a 1 x 1 convolution.
        weight: (outputs, inputs).
        bias: (outputs,).
        key: What the layer is called in a message.

    Raises:
        XPrunerError: If the solution is not finite.
    """
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise XPrunerError(f"Compensation of {key!r} is not finite; raise compensate.ridge or use precision fp32.")
    if weight.numel():
        layer.weight += weight.to(layer.weight).view(layer.weight.shape)
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(len(bias), dtype=layer.weight.dtype, device=layer.weight.device))
    layer.bias += bias.to(layer.bias)
