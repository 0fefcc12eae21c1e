import pytest
import torch

from xpruner.calibration.moments import Moments
from xpruner.compensation.solve import affine_prediction, solve_ridge
from xpruner.config import CompensateConfig
from xpruner.errors import XPrunerError


def test_a_prediction_by_hand():
    moments = Moments(2)
    moments.update(torch.tensor([[1.0, 5.0], [3.0, 9.0]]))  # variance 1, covariance 2: the second is 2 x + 3
    kept, removed = torch.tensor([0]), torch.tensor([1])
    affine = affine_prediction(moments, kept, removed, CompensateConfig("affine", ridge=0.25))
    assert affine.item() == pytest.approx(2 / 1.25)
    assert affine_prediction(moments, kept, removed, CompensateConfig("mean")).tolist() == [[0.0]]


def test_a_solve_by_hand():
    covariance, cross = torch.diag(torch.tensor([3.0, 1.0]).double()), torch.tensor([[3.5], [4.5]]).double()
    solution = solve_ridge(covariance, cross, samples=10**9, least=0.25)  # the ridge is 0.25 x 2
    torch.testing.assert_close(solution, torch.tensor([[1.0, 3.0]]).double())


def test_a_solve_without_inputs_is_empty():
    assert solve_ridge(torch.zeros(0, 0), torch.zeros(0, 3), 10, 1e-3).shape == (3, 0)


def test_a_ridge_too_small_for_the_rounding_is_refused():
    covariance = torch.diag(torch.tensor([1.0, -1e-3]).double())
    with pytest.raises(XPrunerError, match="A ridge of 1e-06 is too small for the calibration statistics; raise"):
        solve_ridge(covariance, torch.ones(2, 1).double(), samples=10**9, least=1e-6)
