"""The class-by-unit masks as tables for people: sorted, in whole percent, and small enough for a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

MOST_ROWS = 200
"""Of a table; more classes are shown as means of neighbours."""
MOST_COLUMNS = (4096, 2048, 1024, 512, 256, 128, 64, 32)
MOST_BYTES = 5_000_000
"""Of all tables on the page, as estimated by :func:`width`."""
BYTES_A_COLUMN = 80
"""What a column takes besides its cells: its units and the classes that they serve, in words."""
BYTES_A_CELL = 4 / 3
"""In base64."""
OPTIMAL = 500
"""Up to so many points the leaves of a clustering are put into the optimal order; 1,000 on a line take ten seconds."""
SERVED, NOTABLE = 3, 8


@dataclass(frozen=True)
class Column:
    """Units that are shown as one.

    Attributes:
        units: Their indices in the dense model; one, where all fit.
        kept: Whether they are kept; kept and pruned units never share a column.
        serves: Names of the classes whose masks are largest here, the largest first.
    """

    units: list[int]
    kept: bool
    serves: list[str]


@dataclass(frozen=True)
class NotableUnit:
    """A unit whose mask separates classes.

    Attributes:
        unit: Its index.
        kept: Whether it is kept.
        mean: Mean over the classes of its mask, percent.
        most: Name and mask in percent of the classes that it serves most.
        least: The same of the class that it serves least.
    """

    unit: int
    kept: bool
    mean: float
    most: list[tuple[str, float]]
    least: tuple[str, float]


@dataclass(frozen=True)
class MaskTable:
    """The masks of one group.

    Attributes:
        key: Of the group.
        units: How many it had.
        kept: How many are kept.
        mean_kept: Mean mask of those, percent; None for none.
        mean_pruned: The same of the pruned ones.
        rows: The classes of each row; one, where all fit.
        columns: Those of kept units first.
        percent: (rows, columns) means of the masks, 0 to 100, uint8.
        notable: The units whose masks differ most between classes (standard deviation).
    """

    key: str
    units: int
    kept: int
    mean_kept: float | None
    mean_pruned: float | None
    rows: list[list[str]]
    columns: list[Column]
    percent: np.ndarray
    notable: list[NotableUnit]


def leaf_order(points: np.ndarray) -> np.ndarray:
    """Returns the order of points (n, d) in which neighbours are alike: the leaves of a hierarchical clustering.

    Average linkage of Euclidean distances, with the optimal order of the leaves (Bar-Joseph et al. 2001); the end with
    the larger mean comes first.
    """
    if len(points) < 3:
        order = np.arange(len(points))
    else:
        distances = squareform(_distances(points), checks=False)
        tree = linkage(distances, "average")
        order = leaves_list(optimal_leaf_ordering(tree, distances) if len(points) <= OPTIMAL else tree)
    means = points.mean(1)[order]
    half = len(order) // 2
    return order[::-1] if means[:half].sum() < means[len(order) - half :].sum() else order


def _distances(points: np.ndarray) -> np.ndarray:
    """Returns the (n, n) Euclidean distances, by one product of matrices: scipy's take minutes for 1,000 classes."""
    points = points.astype(np.float64) - points.mean(0)
    squares = (points**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    np.fill_diagonal(distances, 0)
    return (distances + distances.T) / 2


def class_rows(masks: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Returns the classes of each row, sorted by all masks (classes, units), of which each group counts the same."""
    every = np.concatenate([m / np.sqrt(m.shape[1]) for m in masks.values()], axis=1)
    order = leaf_order(every)
    return np.array_split(order, min(len(order), MOST_ROWS))


def width(sizes: Sequence[int], rows: int) -> int:
    """Returns how many columns a table may have so that the tables of groups of these sizes fit the page."""
    for most in MOST_COLUMNS:
        columns = sum(min(size, most) for size in sizes)
        if columns * (BYTES_A_COLUMN + BYTES_A_CELL * rows) <= MOST_BYTES:
            return most
    return MOST_COLUMNS[-1]


def mask_table(
    key: str, masks: np.ndarray, kept: Sequence[int], rows: Sequence[np.ndarray], names: Sequence[str], most: int
) -> MaskTable:
    """Returns the table of one group.

    Args:
        key: Of the group.
        masks: (classes, units), 0 to 1.
        kept: Indices of the kept units.
        rows: The classes of each row.
        names: Of the classes.
        most: Columns at most.
    """
    is_kept = np.zeros(masks.shape[1], bool)
    is_kept[list(kept)] = True
    by_class = np.stack([masks[row].mean(0) for row in rows])  # (rows, units)
    blocks = [(units, side) for side in (True, False) for units in _blocks(by_class, is_kept == side, most)]
    columns = [Column(units.tolist(), side, _served(masks[:, units].mean(1), names)) for units, side in blocks]
    percent = np.stack([by_class[:, units].mean(1) for units, _ in blocks], axis=1)
    separating = (-masks.std(0)).argsort(kind="stable")[:NOTABLE].tolist()
    return MaskTable(
        key, masks.shape[1], int(is_kept.sum()), _mean(masks[:, is_kept]), _mean(masks[:, ~is_kept]),
        [[names[c] for c in row] for row in rows], columns, (100 * percent).round().astype(np.uint8),
        [_notable(masks[:, unit], unit, bool(is_kept[unit]), names) for unit in separating],
    )  # fmt: skip


def _blocks(by_class: np.ndarray, chosen: np.ndarray, most: int) -> list[np.ndarray]:
    """Returns the chosen units in the order of their clustering, in blocks of neighbours where there are too many."""
    units = chosen.nonzero()[0]
    if not len(units):
        return []
    blocks = max(1, min(len(units), most * len(units) // max(len(chosen), most)))
    return np.array_split(units[leaf_order(by_class[:, units].T)], blocks)


def _served(values: np.ndarray, names: Sequence[str]) -> list[str]:
    return [names[c] for c in (-values).argsort(kind="stable")[:SERVED]]


def _mean(masks: np.ndarray) -> float | None:
    return 100 * float(masks.mean()) if masks.size else None


def _notable(values: np.ndarray, unit: int, kept: bool, names: Sequence[str]) -> NotableUnit:
    order = (-values).argsort(kind="stable")
    percent = [(names[c], 100 * float(values[c])) for c in order]
    return NotableUnit(unit, kept, 100 * float(values.mean()), percent[:SERVED], percent[-1])
