"""What the author of an adapter, of a method or of a module class runs or inherits; it needs pytest.

Every ``check_...`` raises AssertionError with a sentence that says what does not hold. The classes hold all checks of
their kind as tests: inherit, name the model or the method, and run pytest. Without pytest, importing this package
raises UsageError.
"""

from xpruner.testing.adapter_tests import AdapterTests
from xpruner.testing.method_checks import (
    check_finds_idle_units,
    check_is_deterministic,
    check_meets_budget,
    check_refuses_unknown_options,
)
from xpruner.testing.method_tests import MethodTests
from xpruner.testing.model_checks import (
    check_costs,
    check_gated_is_cut,
    check_gates_act_on_their_image,
    check_saves_and_loads,
    check_trains,
)
from xpruner.testing.models import footprint, set_fused, small_vit, stir
from xpruner.testing.plans import random_plan
from xpruner.testing.problems import Noise, planted, tiny_problem

__all__ = [
    "AdapterTests",
    "MethodTests",
    "Noise",
    "check_costs",
    "check_finds_idle_units",
    "check_gated_is_cut",
    "check_gates_act_on_their_image",
    "check_is_deterministic",
    "check_meets_budget",
    "check_refuses_unknown_options",
    "check_saves_and_loads",
    "check_trains",
    "footprint",
    "planted",
    "random_plan",
    "set_fused",
    "small_vit",
    "stir",
    "tiny_problem",
]
