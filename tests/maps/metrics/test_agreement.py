import math

import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from xpruner.errors import UsageError
from xpruner.maps.metrics.agreement import Agreement, agreement, chance_agreement, shuffled, spearman, ssim, top_overlap


def maps_of(*rows):
    """Returns for each row of pixels a map of one row."""
    return torch.tensor(rows, dtype=torch.float)[:, None]


def test_rank_correlation_by_hand():
    a = maps_of([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [0, 0, 5, 9])
    b = maps_of([10, 20, 40, 30], [-1, -2, -3, -4], [0, 1, 8, 27], [1, 2, 3, 4])  # the last: two share the rank 1.5
    assert spearman(a, b).tolist() == pytest.approx([1 - 6 * 2 / (4 * 15), -1, 1, math.sqrt(0.9)])


def test_rank_correlation_is_that_of_scipy_with_many_ties():
    a, b = torch.randint(0, 5, (2, 3, 6, 7)).float()
    by_scipy = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    assert spearman(a, b).tolist() == pytest.approx(by_scipy)


def test_a_constant_map_orders_nothing():
    constant = maps_of([3, 3, 3])
    assert spearman(constant, maps_of([1, 2, 3])).item() == spearman(constant, constant).item() == 0


def step(size=11):
    """Returns a map that is 0 on the left, 1 on the right and 0.5 in between: one window of SSIM."""
    row = torch.cat([torch.zeros(size // 2), torch.tensor([0.5]), torch.ones(size // 2)])
    return row.expand(1, size, size)


MIDDLE = 1 / sum(math.exp(-(k**2) / (2 * 1.5**2)) for k in range(-5, 6))  # weight of the window's middle column
MEAN, VARIANCE = 0.5, (1 - MIDDLE) / 4  # of step(): E[x^2] = (1 - MIDDLE) / 2 + MIDDLE / 4


def test_structural_similarity_of_equal_maps_on_any_scale():
    a = torch.rand(3, 14, 17)
    assert ssim(a, a).tolist() == pytest.approx([1, 1, 1])
    assert ssim(a, 5 * a - 3).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("negated", [1 - step(), -step()])
def test_structural_similarity_of_negated_maps_by_hand(negated):
    """Equal means and variances, and a covariance of minus the variance."""
    by_hand = (-2 * VARIANCE + 0.03**2) / (2 * VARIANCE + 0.03**2)
    assert ssim(step(), negated).item() == pytest.approx(by_hand)


def test_structural_similarity_with_a_constant_map_by_hand():
    by_hand = 0.01**2 / (MEAN**2 + 0.01**2) * 0.03**2 / (VARIANCE + 0.03**2)
    assert ssim(step(), torch.full((1, 11, 11), 7.0)).item() == pytest.approx(by_hand)


def test_constant_maps_are_alike():
    assert ssim(torch.full((1, 12, 12), 7.0), torch.zeros(1, 12, 12)).item() == 1


def test_structural_similarity_is_the_mean_over_the_windows_inside():
    a, b = torch.rand(2, 1, 12, 11).double()
    for maps in (a, b):
        maps[0, 1, 0], maps[0, 1, 1] = 0, 1  # in both windows, so that they are scaled as the whole map is
    windows = [ssim(a[:, top : top + 11], b[:, top : top + 11]).item() for top in (0, 1)]
    assert ssim(a, b).item() == pytest.approx(sum(windows) / 2)


def test_overlap_of_known_sets():
    a = maps_of(*[[9, 8, 1, 2, 3, 4, 0, 0, 0, 0]] * 3)
    b = maps_of([9, 8, 0, 0, 0, 0, 0, 0, 0, 1], [0, 8, 9, 0, 0, 0, 1, 1, 1, 1], [0, 1, 7, 8, 1, 1, 1, 1, 1, 1])
    assert top_overlap(a, b).tolist() == pytest.approx([1, 1 / 3, 0])
    assert top_overlap(a, b, share=0.3).tolist() == pytest.approx([1 / 2, 1 / 4, 0])


def test_pixels_that_tie_are_in_or_out_together():
    sparse = maps_of([5, 0, 0, 0, 0, 0, 0, 0, 0, 0])  # its second pixel would be any of nine
    assert top_overlap(sparse, maps_of([0, 0, 0, 0, 0, 0, 0, 0, 0, 5])).item() == 0
    assert top_overlap(sparse, maps_of([9, 8, 7, 6, 5, 4, 3, 2, 1, 0])).item() == 1 / 2
    constant = maps_of([1] * 10)
    assert top_overlap(constant, constant).item() == 1
    assert top_overlap(constant, maps_of(list(range(10)))).item() == pytest.approx(0.2)


def test_agreement_is_the_mean_over_images():
    a = torch.cat([step(), step()])
    b = torch.cat([step(), -step()])
    found = agreement(a, b)
    assert found.spearman == pytest.approx(0)
    assert found.ssim == pytest.approx((1 + ssim(step(), -step()).item()) / 2)
    assert found.top_overlap == pytest.approx(1 / 2)  # 5 of 11 columns tie for either maximum
    assert agreement(a, a) == Agreement(pytest.approx(1), pytest.approx(1), 1)


def upsampled(cells, factor=3):
    return F.interpolate(cells[:, None].double(), scale_factor=factor, mode="bilinear")[:, 0]


def centres(maps, factor=3):
    return maps[:, factor // 2 :: factor, factor // 2 :: factor]


def test_shuffled_maps_are_the_same_cells_elsewhere():
    cells = torch.arange(40).view(2, 4, 5)
    moved = shuffled(upsampled(cells), (4, 5))
    found = centres(moved)
    torch.testing.assert_close(moved, upsampled(found))
    assert found.flatten(1).sort().values.tolist() == pytest.approx(cells.flatten(1).double())
    orders = found.round().long().flatten(1) - torch.tensor([[0], [20]])
    assert orders[0].tolist() != orders[1].tolist() != list(range(20)) != orders[0].tolist()


def test_the_seed_decides_the_shuffle():
    maps = torch.rand(2, 8, 8)
    assert torch.equal(shuffled(maps, (8, 8), seed=1), shuffled(maps, (8, 8), seed=1))
    assert not torch.equal(shuffled(maps, (8, 8), seed=1), shuffled(maps, (8, 8), seed=2))


def test_the_chance_level_is_the_agreement_with_shuffled_maps():
    maps = upsampled(torch.rand(3, 5, 5))
    assert chance_agreement(maps, (5, 5), seed=4) == agreement(maps, shuffled(maps, (5, 5), seed=4))


def test_the_chance_level_keeps_the_grain_and_the_sparseness_that_make_maps_alike_by_chance():
    cells = torch.randn(2, 32, 14, 14, generator=torch.Generator().manual_seed(0))
    maps = upsampled((cells[0] - 1).relu(), factor=8)
    chance, noise = chance_agreement(maps, (14, 14)), agreement(maps, torch.rand_like(maps))
    smooth_noise = agreement(maps, upsampled(cells[1], factor=8))
    assert chance.ssim > 0.25 > 0.05 > max(noise.ssim, smooth_noise.ssim)
    assert abs(chance.spearman) < 0.05 and chance.top_overlap == pytest.approx(0.2**2 / (0.4 - 0.2**2), abs=0.02)


@pytest.mark.parametrize("measure", [spearman, ssim, top_overlap, agreement])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(2, 12, 12), torch.zeros(2, 12, 11), r"\(2, 12, 12\) and \(2, 12, 11\) cannot be compared; interp"),
        (torch.zeros(0, 12, 12), torch.zeros(0, 12, 12), r"Maps of shape \(0, 12, 12\) cannot be scored"),
        (torch.zeros(1, 12, 12), torch.full((1, 12, 12), math.nan), "The map of image 0 holds NaN"),
        (torch.full((1, 12, 12), math.inf), torch.zeros(1, 12, 12), "infinite values; leave that image out"),
    ],
)
def test_maps_that_cannot_be_compared(measure, a, b, message):
    with pytest.raises(UsageError, match=message):
        measure(a, b)


def test_windows_need_room():
    with pytest.raises(UsageError, match=r"Maps of 14 x 10 pixels are smaller .* 11 pixels a side at least"):
        ssim(torch.zeros(1, 14, 10), torch.zeros(1, 14, 10))


@pytest.mark.parametrize("share", [0, 1, -0.2, math.nan])
def test_shares_out_of_range(share):
    with pytest.raises(UsageError, match=f"A share of {share} of the pixels cannot be compared; choose one"):
        top_overlap(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), share=share)


@pytest.mark.parametrize("grid", [(0, 3), (1, 1), (13, 3), (3, 13)])
def test_grids_that_do_not_fit(grid):
    with pytest.raises(UsageError, match=f"A grid of {grid[0]} x {grid[1]} cells does not fit maps of 12 x 12 pixels"):
        chance_agreement(torch.zeros(1, 12, 12), grid)
