"""Masks as tables: order, blocks, percent, and the room that they take."""

import numpy as np
import pytest

from xpruner.report import tables
from xpruner.report.tables import class_rows, leaf_order, mask_table, width


def test_alike_rows_stand_side_by_side_the_larger_end_first():
    points = np.array([[0.0, 0.1], [1.0, 0.9], [0.0, 0.0], [0.9, 0.9]])
    assert leaf_order(points).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("rows", [[], [[0.2, 0.4]], [[0.1, 0.1], [0.9, 0.9]]])
def test_few_rows_are_sorted_by_size(rows):
    points = np.array(rows).reshape(len(rows), 2)
    assert leaf_order(points).tolist() == list(range(len(rows)))[::-1]


def test_every_group_counts_the_same_for_the_order_of_the_classes(monkeypatch):
    """A thousand small differences of one group do not outweigh the two heads that pair the classes."""
    monkeypatch.setattr(tables, "MOST_ROWS", 2)
    heads = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    hidden = np.repeat(np.array([[0.5], [0.5], [0.6], [0.6]]), 1000, axis=1)
    rows = class_rows({"a:head": heads, "b:hidden": hidden})
    assert sorted(sorted(row.tolist()) for row in rows) == [[0, 2], [1, 3]]


def test_the_table_of_a_group():
    masks = np.array([[0.9, 0.1, 0.5, 0.2], [0.8, 0.1, 0.7, 0.32]])
    table = mask_table("m:head", masks, [0, 2], [np.array([0]), np.array([1])], ["cat", "dog"], 10)
    assert [(c.units, c.kept, c.serves) for c in table.columns] == [
        ([0], True, ["cat", "dog"]), ([2], True, ["dog", "cat"]),
        ([3], False, ["dog", "cat"]), ([1], False, ["cat", "dog"]),
    ]  # fmt: skip
    assert table.percent.tolist() == [[90, 50, 20, 10], [80, 70, 32, 10]] and table.percent.dtype == np.uint8
    assert (table.units, table.kept, table.rows) == (4, 2, [["cat"], ["dog"]])
    assert table.mean_kept == pytest.approx(72.5) and table.mean_pruned == pytest.approx(18)
    first = table.notable[0]
    assert (first.unit, first.kept, first.most, first.least[0]) == (2, True, [("dog", 70.0), ("cat", 50.0)], "cat")
    assert [unit.unit for unit in table.notable] == [2, 3, 0, 1]


def test_units_that_do_not_fit_are_shown_as_means_and_never_mix_kept_and_pruned():
    masks = np.array([[0.0, 0.2, 1.0, 0.8, 0.5, 0.5, 0.5, 0.7]])
    table = mask_table("m:hidden", masks, [0, 1, 2, 3], [np.array([0])], ["cat"], 4)
    assert [(len(c.units), c.kept) for c in table.columns] == [(2, True), (2, True), (2, False), (2, False)]
    assert [set(c.units) for c in table.columns[:2]] == [{2, 3}, {0, 1}] and 7 in table.columns[2].units
    assert table.percent.tolist() == [[90, 10, 60, 50]]
    assert sorted(unit for column in table.columns for unit in column.units) == list(range(8))


@pytest.mark.parametrize(("kept", "means"), [([], (None, 50.0)), ([0, 1], (50.0, None))])
def test_a_group_that_is_kept_or_pruned_as_a_whole(kept, means):
    table = mask_table("m:head", np.full((2, 2), 0.5), kept, [np.array([0, 1])], ["cat", "dog"], 10)
    assert (table.mean_kept, table.mean_pruned) == means
    assert table.percent.tolist() == [[50, 50]] and table.rows == [["cat", "dog"]]


def test_more_classes_than_rows_share_them():
    families = np.arange(1000) // 5
    rows = class_rows({"m:head": (families + 0.001 * np.arange(1000) % 0.003)[:, None]})
    assert len(rows) == tables.MOST_ROWS
    assert sorted(map(sorted, rows)) == [list(range(first, first + 5)) for first in range(0, 1000, 5)]


def test_the_width_is_the_largest_that_fits():
    assert width([12, 3072], 10) == 4096
    deit_small = [6, 1536] * 12
    wide = width(deit_small, 200)
    cells = sum(min(size, wide) for size in deit_small)
    assert cells * (tables.BYTES_A_COLUMN + 200 * 4 / 3) <= tables.MOST_BYTES
    assert wide == 1024
    assert width([10**6] * 1000, 200) == tables.MOST_COLUMNS[-1]
