"""What is printed of a guard of the classes."""

from dataclasses import replace

from xpruner.cli.tables import guard_text
from xpruner.methods.xpruner.guard import GuardFigures

GUARD = GuardFigures(
    limit=2.0, largest=1.5, drops=[1.5, None, 0.25], weights=[2.0, 0.5, 0.5], images=400, price=0.125,
    largest_without=3.0, budget=0.5, budget_without=0.55,
)  # fmt: skip


def test_the_text_of_a_guard():
    held, price, table = guard_text(GUARD, ["cat", "dog", "owl"])
    assert held == (
        "The guard held: before training no class loses more than 2 points on 400 training images; cat loses most, "
        "1.50."
    )
    assert price == (
        "It costs 0.12 points of top-1 over all these images, beside the plan without it at the same budget, 0.50, "
        "under which a class loses 3.00; among plans without multipliers, the least budget tried that has one that "
        "does is 0.55 of the dense model's cost."
    )
    assert [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)] == [
        ["cat", "1.50", "2.00"],
        ["owl", "0.25", "0.50"],
    ]


def test_a_guard_that_had_nothing_to_do_cost_nothing():
    idle = replace(GUARD, weights=[1.0, 1.0, 1.0], price=0.0, budget_without=None)
    assert guard_text(idle, ["cat", "dog", "owl"])[1] == "The plan held as it was, and the guard cost nothing."


def test_a_guard_that_gains_and_no_other_budget_that_holds():
    said = guard_text(replace(GUARD, price=-0.5, budget_without=None), ["cat", "dog", "owl"])[1]
    assert said.startswith("It gains 0.50 points of top-1")
    assert said.endswith("among plans without multipliers, none of the larger budgets tried has one that does.")
