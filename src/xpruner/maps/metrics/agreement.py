"""Whether two sets of explanation maps agree, such as those of the dense and of the pruned model on the same images."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from xpruner.errors import UsageError
from xpruner.maps.metrics.faithfulness import check_maps

WINDOW, SIGMA = 11, 1.5
"""The Gaussian window of SSIM, in pixels (Wang et al. 2004, section III)."""
C1, C2 = 0.01**2, 0.03**2
"""What steadies SSIM's two quotients, for maps scaled to 0..1 (the same section)."""


@dataclass(frozen=True)
class Agreement:
    """Means over images.

    Attributes:
        spearman: Of the rank correlation, -1 to 1.
        ssim: Of the structural similarity, -1 to 1.
        top_overlap: Of the intersection over union of the most salient pixels, 0 to 1.
    """

    spearman: float
    ssim: float
    top_overlap: float


def agreement(a: Tensor, b: Tensor) -> Agreement:
    """Returns how far two maps of the same image agree, by three measures of different properties.

    Args:
        a: Maps, (batch, height, width).
        b: Maps of the same images and classes, of the same shape.

    Raises:
        UsageError: If the shapes differ, there are no maps, one is not finite, or they are smaller than SSIM's window.
    """
    return Agreement(*(measure(a, b).mean().item() for measure in (spearman, ssim, top_overlap)))


def chance_agreement(maps: Tensor, grid: tuple[int, int], *, seed: int = 0) -> Agreement:
    """Returns the chance level of agreement: how far maps agree with :func:`shuffled` versions of themselves.

    Args:
        maps: (batch, height, width).
        grid: (rows, columns) of the positions that the method scored, e.g. a ViT's patches, 14 x 14; the map's own
            size where it scored pixels.
        seed: Of the shuffles.

    Raises:
        UsageError: As :func:`agreement` and :func:`shuffled` do.
    """
    return agreement(maps, shuffled(maps, grid, seed=seed))


def shuffled(maps: Tensor, grid: tuple[int, int], *, seed: int = 0) -> Tensor:
    """Returns random maps as smooth and as sparse as the given ones: their cells, moved to random places.

    Each map is read at the centres of the grid's cells, the cells are shuffled, for each map in its own way, and
    interpolated bilinearly to the map's size, in double precision. Noise would give too low a chance level, for SSIM
    above all: white noise is unlike a map of a few tokens by its grain alone, and smooth noise unlike one that is
    mostly 0 by its values, while two maps of one method are alike in both wherever they peak.

    Args:
        maps: (batch, height, width).
        grid: (rows, columns), from two cells to as many as there are pixels.
        seed: Of the shuffles.

    Raises:
        UsageError: If there are no maps, one is not finite, or the grid does not fit them.
    """
    check_maps(maps)
    rows, columns = grid
    height, width = maps.shape[1:]
    if not (1 <= rows <= height and 1 <= columns <= width and rows * columns > 1):
        raise UsageError(
            f"A grid of {rows} x {columns} cells does not fit maps of {height} x {width} pixels; "
            "give the rows and columns that the method scored, two cells at least."
        )
    cells = _resized(maps.double(), grid).flatten(1)
    order = torch.rand(cells.shape, generator=torch.Generator().manual_seed(seed)).argsort(dim=1).to(maps.device)
    return _resized(cells.gather(1, order).unflatten(1, grid), (height, width))


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Returns the rank correlation of each pair of maps, -1 to 1, (batch,); pixels that tie share their mean rank.

    A constant map orders nothing and agrees with none, itself included: 0. Arguments and what it raises are those of
    :func:`agreement`, but for the size.
    """
    _check_pair(a, b)
    x, y = (ranks - ranks.mean(dim=1, keepdim=True) for ranks in (_ranks(a), _ranks(b)))
    return F.cosine_similarity(x, y, dim=1)


def _ranks(maps: Tensor) -> Tensor:
    values = maps.flatten(1)
    ordered = values.sort(dim=1).values
    return (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)).double() / 2


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Returns the structural similarity of each pair of maps, each scaled to 0..1, (batch,).

    It is the mean over all windows that lie inside the maps. A constant map is scaled to 0, so two of them are equal:
    1. Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004,
    equation 13. Arguments and what it raises are those of :func:`agreement`.
    """
    _check_pair(a, b)
    if min(a.shape[1:]) < WINDOW:
        raise UsageError(
            f"Maps of {a.shape[1]} x {a.shape[2]} pixels are smaller than the window of SSIM; "
            f"interpolate them to the size of the image, {WINDOW} pixels a side at least."
        )
    x, y = _scaled(a), _scaled(b)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variances = _windowed(x * x) - mean_x**2 + _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (luminance * (2 * covariance + C2) / (variances + C2)).mean(dim=(1, 2))


def _scaled(maps: Tensor) -> Tensor:
    maps = maps.double()
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)


def _windowed(maps: Tensor) -> Tensor:
    """Returns the weighted mean of every window that lies inside the maps: along rows, then columns, for speed."""
    along_rows = gaussian_blur(maps, [WINDOW, 1], [SIGMA] * 2)
    margin = WINDOW // 2
    return gaussian_blur(along_rows, [1, WINDOW], [SIGMA] * 2)[:, margin:-margin, margin:-margin]


def top_overlap(a: Tensor, b: Tensor, *, share: float = 0.2) -> Tensor:
    """Returns the intersection over union of the two maps' most salient pixels, 0 to 1, (batch,).

    Pixels that tie are in or out together, so that no order of theirs decides: the top are at most the share asked
    for, unless more pixels tie for the maximum, which are then the top.

    Args:
        a: Maps, (batch, height, width).
        b: Maps of the same images and classes, of the same shape.
        share: Of the pixels, between 0 and 1.

    Raises:
        UsageError: If the shapes differ, there are no maps, one is not finite, or the share is out of range.
    """
    _check_pair(a, b)
    if not 0 < share < 1:
        raise UsageError(
            f"A share of {share} of the pixels cannot be compared; choose one between 0 and 1, such as 0.2."
        )
    x, y = _top(a, share), _top(b, share)
    return (x & y).sum(dim=1).double() / (x | y).sum(dim=1)


def _top(maps: Tensor, share: float) -> Tensor:
    values = maps.flatten(1)
    count = min(round(share * values.shape[1]), values.shape[1] - 1)
    first_left_out = values.sort(dim=1, descending=True).values[:, count, None]
    return (values > first_left_out) | (values == values.amax(dim=1, keepdim=True))


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise UsageError(
            f"Maps of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared; "
            "interpolate both to the size of the image and give the same images."
        )
    check_maps(a)
    check_maps(b)
