"""Means and spreads over seeds, and what the plots are made of, against values computed by hand."""

import pytest

from xpruner.compare.markdown import markdown
from xpruner.compare.plots import front_of, keep_rates, pareto_front
from xpruner.compare.result_checks import check_together
from xpruner.compare.tables import progress_table, rows_of
from xpruner.errors import XPrunerError


def result(label: str, seed: int, top1: float, budget: str = "0.5", precision: str = "fp32", **stages) -> dict:
    figures = {"macs": 50.0, "agreement": top1}
    return {
        "label": label,
        "length": "short",
        "config": {"budget": budget, "seed": seed, "method": "dense" if label == "dense" else "l1",
                   "precision": precision},
        "environment": {"device": "GPU"} if seed else {},
        "keep": {"a:head": [1, 4], "b:hidden": [6, 8]} if seed else {"a:head": [3, 4], "b:hidden": [2, 8]},
        "stages": {"dense": {"top1": 0.9, "macs": 100.0}, "finetuned": {"top1": top1, **figures}, **stages},
    }  # fmt: skip


def test_mean_and_sample_standard_deviation():
    """0.80, 0.82 and 0.90: mean 0.84, deviations -4, -2 and 6 points, variance 56 / 2."""
    (row,) = rows_of([result("a", seed, top1) for seed, top1 in enumerate((0.80, 0.82, 0.90))])
    assert row.percent("finetuned") == "84.00 ± 5.29"
    assert row.percent("compensated") == "–"
    assert row.mean("finetuned", "macs") == 50


def test_one_seed_has_no_spread():
    (row,) = rows_of([result("a", 0, 0.5)])
    assert row.percent("finetuned") == "50.00"


def test_the_larger_budget_and_then_the_best_comes_first():
    rows = rows_of([result("a", 0, 0.5, "0.3"), result("b", 0, 0.6, "0.3"), result("c", 0, 0.4)])
    assert [(row.label, row.budget) for row in rows] == [("c", "0.5"), ("b", "0.3"), ("a", "0.3")]


def test_markdown_leaves_out_empty_columns():
    lines = markdown(rows_of([result("a", 0, 0.5), result("dense", 0, 0.9)])).splitlines()
    assert lines[0] == "| method | seeds | MACs | cut | fine-tuned | agreement | on |"
    assert lines[2:] == [
        "| dense | 1 | 0.5000 | 90.00 | 90.00 | 90.00 | CPU |",
        "| a | 1 | 0.5000 | – | 50.00 | 50.00 | CPU |",
    ]


def test_names_stay_in_their_cell():
    text = markdown(rows_of([result("L1 | 99.9\n| X\x1b", 0, 0.5)]))
    assert text.splitlines()[2].startswith("| L1 \\| 99.9\\n\\| X\\x1b | 1 |") and len(text.splitlines()) == 3


def test_results_of_one_row_are_of_one_model():
    other = {**result("a", 1, 0.5), "keep": {"c:head": [1, 4]}}
    check_together([result("a", 0, 0.5), result("a", 1, 0.5), {**other, "label": "b"}])
    with pytest.raises(XPrunerError, match=r"The results of 'a' at budget 0\.5 keep units of different layers; delete"):
        check_together([result("a", 0, 0.5), other])


def test_a_row_names_every_device_that_its_runs_were_on():
    text = markdown(rows_of([result("a", seed, 0.5) for seed in (0, 1, 2)]))
    assert text.endswith("| CPU, GPU |")


def test_a_table_of_several_precisions_names_them():
    results = [result("a", 0, 0.5), result("a", 1, 0.5, precision="bf16"), result("b", 0, 0.4)]
    lines = markdown(rows_of(results)).splitlines()
    assert lines[0] == "| method | seeds | MACs | fine-tuned | agreement | precision | on |"
    assert lines[2].endswith("| bf16, fp32 | CPU, GPU |")
    assert lines[3].endswith("| fp32 | CPU |")
    table = progress_table(results, "Digits")
    assert [column.header for column in table.columns][-1] == "precision"
    assert list(table.columns[-1].cells) == ["bf16, fp32", "fp32"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_table_of_one_precision_is_silent_about_it(precision):
    table = progress_table([result(name, 0, 0.5, precision=precision) for name in "ab"], "Digits")
    assert [column.header for column in table.columns][-1] == "fine-tuned"


def test_a_compensation_that_was_not_taken_is_marked():
    left = {"compensated": {"top1": 0.25, "macs": 50.0, "taken": False}}
    text = markdown(rows_of([result("a", 0, 0.5, **left)]))
    assert "| 25.00 (not taken by 1) |" in text


def test_pareto_front():
    assert pareto_front([(3, 0.7), (1, 0.5), (2, 0.9), (2, 0.4)]) == [(1, 0.5), (2, 0.9)]


def test_a_shortfall_of_a_few_macs_puts_nobody_on_the_front():
    """At 49.8 and at 50 of 100 MACs it is one budget: its best counts alone, beside the cheaper row."""
    finetuned = [{"top1": 0.5, "macs": 30.0}, {"top1": 0.6, "macs": 49.8}, {"top1": 0.8, "macs": 50.0}]
    rows = rows_of([result(name, 0, 0.0, finetuned=figures) for name, figures in zip("abc", finetuned, strict=True)])
    assert front_of(rows, "finetuned") == [(pytest.approx(30e-6), 0.5), (pytest.approx(50e-6), 0.8)]


def test_keep_rates_are_means_over_the_seeds():
    (row,) = rows_of([result("a", 0, 0.5), result("a", 1, 0.5)])
    assert keep_rates(row) == {"a:head": pytest.approx(0.5), "b:hidden": pytest.approx(0.5)}
