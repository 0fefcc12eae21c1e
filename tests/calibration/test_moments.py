import numpy as np
import pytest
import torch
from sklearn.covariance import OAS
from tiny_models import tiny, units_of

from xpruner.calibration.moments import Moments, consumer_moments
from xpruner.calibration.ridge import oas_shrinkage, ridge


def whole_numbers(*shape):
    """Small integers: their float32 products are exact."""
    return torch.randint(-9, 10, shape).float()


def test_streamed_moments_are_those_of_all_rows_at_once():
    x = whole_numbers(60, 7)
    moments = Moments(7)
    for part in (x[:8].view(2, 4, 7), x[8:32].view(2, 3, 4, 7), x[32:]):
        moments.update(part)
    assert moments.count == 60
    np.testing.assert_allclose(moments.mean, x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x.double().numpy().T, bias=True), rtol=1e-12, atol=1e-12)


def test_cross_moments_are_those_of_all_rows_at_once():
    x, y = whole_numbers(60, 4), whole_numbers(60, 3)
    moments = Moments(4, 3)
    for part in range(0, 60, 20):
        moments.update(x[part : part + 20].view(4, 5, 4), y[part : part + 20].view(4, 5, 3))
    both = np.cov(torch.cat([x, y], 1).double().numpy().T, bias=True)
    np.testing.assert_allclose(moments.mean_y, y.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, both[:4, :4], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.cross_covariance, both[:4, 4:], rtol=1e-12, atol=1e-12)


def test_moments_by_hand():
    moments = Moments(2)
    moments.update(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    assert moments.mean.tolist() == [2, 2]
    assert moments.covariance.tolist() == [[1, 2], [2, 4]]


def test_a_row_that_weighs_two_is_there_twice():
    x, y = whole_numbers(3, 4), whole_numbers(3, 2)
    weighed, repeated = Moments(4, 2), Moments(4, 2)
    weighed.update(x, y, torch.tensor([2.0, 0.0, 1.0]))
    repeated.update(x[[0, 0, 2]], y[[0, 0, 2]])
    assert weighed.count == 3
    for name in ("mean", "mean_y", "covariance", "cross_covariance"):
        assert torch.equal(getattr(weighed, name), getattr(repeated, name))


def test_moments_without_channels_still_count_what_they_predict():
    moments = Moments(0, 2)
    moments.update(torch.zeros(2, 3, 0), torch.tensor([[1.0, 2.0]] * 6).view(2, 3, 2))
    assert (moments.count, moments.mean_y.tolist()) == (6, [1, 2])
    assert moments.cross_covariance.shape == (0, 2)


def test_sums_are_double_whatever_the_input():
    moments = Moments(1)
    moments.update(torch.full((1, 1), 2**13, dtype=torch.bfloat16))  # its square, 2^26, and 1 need 27 bits
    moments.update(torch.ones(1, 1, dtype=torch.bfloat16))
    assert moments.sum_xx.item() == 2**26 + 1


def test_shrinkage_by_hand():
    # p = 2, trace 4, trace of the square 10, n = 10: ((1 - 1) 10 + 16) / ((10 + 1 - 1) (10 - 16 / 2))
    assert oas_shrinkage(torch.diag(torch.tensor([3.0, 1.0])), 10) == pytest.approx(0.8)
    # p = 4, trace 8, trace of the square 28, n = 19.5: ((1/2) 28 + 64) / ((20) (28 - 16))
    covariance = torch.diag(torch.tensor([5.0, 1.0, 1.0, 1.0]))
    assert oas_shrinkage(covariance, 19.5) == pytest.approx(78 / 240)


def test_shrinkage_is_at_most_one_and_falls_with_samples():
    covariance = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    shrinkages = [oas_shrinkage(covariance, n) for n in (1, 50, 500, 5000)]
    assert shrinkages[0] == 1.0
    assert shrinkages == sorted(shrinkages, reverse=True)
    assert oas_shrinkage(torch.eye(3), 10) == 1.0  # already what it would be shrunk to
    assert oas_shrinkage(torch.zeros(3, 3), 10) == 1.0


def test_a_single_variable_is_not_shrunk():
    assert oas_shrinkage(torch.tensor([[3.0]]), 10) == 0.0


def test_shrinkage_agrees_with_scikit_learn():
    x = np.random.default_rng(0).normal(size=(300, 60)) * np.linspace(0.5, 3, 60)
    ours = oas_shrinkage(torch.from_numpy(np.cov(x.T, bias=True)), 300)
    assert ours == pytest.approx(OAS().fit(x).shrinkage_, rel=0.02)  # it leaves out the terms with 2 / p


def test_the_ridge_is_a_share_of_the_mean_variance():
    covariance = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert ridge(covariance, 10) == pytest.approx(0.8 * 2)
    assert ridge(covariance, 10**9, least=0.01) == pytest.approx(0.01 * 2)
    assert ridge(torch.zeros(2, 2, dtype=torch.float64), 10) > 0


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_consumer_moments_are_over_all_tokens_of_all_batches(name):
    model, units = tiny(name), units_of(name)
    images = torch.randn(6, *units.input_size)
    moments = consumer_moments(model, units, [(images[:4], torch.zeros(4)), (images[4:], torch.zeros(2))])
    assert list(moments) == [group.key for group in units]
    for group in units:
        rows = []
        hook = model.get_submodule(group.consumer).register_forward_pre_hook(
            lambda _module, args, rows=rows: rows.append(args[0].flatten(0, -2).double())
        )
        with torch.no_grad():
            model(images)
        hook.remove()
        assert moments[group.key].count == len(rows[0])
        torch.testing.assert_close(moments[group.key].mean, rows[0].mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moments[group.key].covariance, rows[0].T.cov(correction=0), rtol=1e-4, atol=1e-6)
