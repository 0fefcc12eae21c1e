"""The classes that are inherited, on a model and on methods of the project's own."""

import pytest
from tiny_models import tiny

from xpruner.testing import AdapterTests, MethodTests
from xpruner.units import KINDS


class TestViT(AdapterTests):
    """It offers every kind of unit."""

    @pytest.fixture
    def model(self):
        return tiny("vit")

    def test_every_kind_is_checked_alone_and_all_together(self, plans, units):
        kinds = [{key.rpartition(":")[2] for key in plan.keep} for plan in plans]
        assert kinds == [{kind} for kind in dict.fromkeys(group.kind for group in units)] + [{*KINDS}]


class TestSwin(AdapterTests):
    kinds = pytest.fixture(lambda self: ("head", "qk"))

    @pytest.fixture
    def model(self):
        return tiny("swin")


class TestTaylor(MethodTests):
    method = "taylor"


class TestRandom(MethodTests):
    method = "random"
    finds_idle_units = False
    budgets = (0.5,)
