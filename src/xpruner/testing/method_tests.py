"""The tests that the author of a method inherits."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from xpruner.testing._pytest import pytest
from xpruner.testing.method_checks import (
    check_finds_idle_units,
    check_is_deterministic,
    check_meets_budget,
    check_refuses_unknown_options,
)
from xpruner.testing.models import small_vit
from xpruner.testing.problems import tiny_problem


class MethodTests:
    """Every check of a method. A subclass names it:

        class TestMine(MethodTests):
            method = "mine"

    Attributes:
        method: The registered name.
        options: The method's own that it is tested with.
        budgets: Shares of the MACs that it has to meet.
        finds_idle_units: Whether it prunes units that nothing reads before others, which a method by chance does not.
    """

    method: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    budgets: ClassVar[tuple[float, ...]] = (0.3, 0.7)
    finds_idle_units: ClassVar[bool] = True

    @pytest.fixture
    def model(self) -> nn.Module:
        """The dense model; large enough that some plan lies within 1 % of every budget."""
        return small_vit(embed_dim=96)

    def test_the_budget_is_met_from_below(self, model: nn.Module):
        for budget in self.budgets:
            check_meets_budget(tiny_problem(self.method, model, budget, steps=3, options=self.options, rounds=2))

    def test_it_is_deterministic_and_leaves_the_model_as_it_is(self, model: nn.Module):
        check_is_deterministic(tiny_problem(self.method, model, options=self.options, rounds=2))

    def test_an_option_that_it_does_not_have_is_refused(self):
        check_refuses_unknown_options(self.method)

    def test_idle_units_are_pruned_first(self):
        if not self.finds_idle_units:
            pytest.skip("finds_idle_units is False")
        check_finds_idle_units(self.method, self.options)
