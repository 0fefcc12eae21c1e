"""Every check says what is wrong: a model, an adapter or a method is broken for each."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from tiny_models import group, tiny, units_of
from torch import nn

from xpruner.methods import Outcome, Problem, register_method
from xpruner.methods._registry import METHODS
from xpruner.models.checkpoint import load
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.surgery import apply
from xpruner.testing import (
    check_costs,
    check_finds_idle_units,
    check_gated_is_cut,
    check_gates_act_on_their_image,
    check_is_deterministic,
    check_meets_budget,
    check_refuses_unknown_options,
    check_saves_and_loads,
    check_trains,
    model_checks,
    random_plan,
    small_vit,
    tiny_problem,
)
from xpruner.units import Units


@pytest.fixture
def model() -> nn.Module:
    return tiny("vit")


@pytest.fixture
def plan() -> Plan:
    return random_plan(units_of("vit"))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32)


def test_a_random_plan_keeps_half_of_every_group_and_all_blocks_but_one():
    blocks = [group(f"b.{i}:block", 1) for i in range(3)]
    units = Units((group("a:head", 3), group("a:hidden", 9), *blocks), 100, 100, (3, 8, 8))
    keep = random_plan(units).keep
    assert [len(keep["a:head"]), len(keep["a:hidden"])] == [2, 8]  # 8 hidden units are the fewest that are kept
    assert sum(len(keep[f"b.{i}:block"]) for i in range(3)) == 2
    assert random_plan(units).keep == keep != random_plan(units, seed=1).keep


def test_surgery_that_cuts_other_units_than_the_gates_close(model, plan, images, monkeypatch):
    check_gated_is_cut(model, plan, images)
    other = random_plan(units_of("vit"), seed=1)
    monkeypatch.setattr(model_checks, "apply", lambda model, _plan: apply(model, other))
    with pytest.raises(AssertionError, match="cut in its head and hidden units and the gated one differ by"):
        check_gated_is_cut(model, plan, images)


def test_outputs_that_are_not_finite_differ(model, plan, images):
    with pytest.raises(AssertionError, match="differ by inf"):
        check_gated_is_cut(model, plan, images * torch.nan)


def test_gates_whose_effect_cannot_be_seen(model, plan, images):
    check_gates_act_on_their_image(model, plan, images)
    nn.init.zeros_(model.head.weight)
    with pytest.raises(AssertionError, match=r"changes the output by 0\.0e"):
        check_gates_act_on_their_image(model, plan, images)


def test_images_that_are_mixed(model, plan, images):
    model.blocks[0].register_forward_hook(lambda _module, _args, output: output + output.flip(0))
    with pytest.raises(AssertionError, match="of one image act on another"):
        check_gates_act_on_their_image(model, plan, images)


def test_a_cost_that_is_predicted_wrongly(model, plan):
    check_costs(model, plan)
    wrong = replace(units_of("vit"), total_macs=units_of("vit").total_macs * 1.01)
    with pytest.raises(AssertionError, match=r"units predict [\d,]+ macs of the cut model, which has [\d,]+;"):
        check_costs(model, plan, wrong)


def test_a_model_that_cannot_be_trained(model, images):
    before = model.head.weight.clone()
    assert "blocks.0.mlp.fc1.weight" in check_trains(model, images)
    assert torch.equal(model.head.weight, before)
    with pytest.raises(AssertionError, match="No output of the model depends on a parameter"):
        check_trains(model.requires_grad_(False), images)


def test_a_gradient_that_is_not_finite(model, images):
    model.head.register_forward_hook(lambda _module, _args, output: output * torch.inf)
    with pytest.raises(AssertionError, match="is not finite"):
        check_trains(model, images)


def test_files_that_hold_something_else(model, tmp_path, monkeypatch):
    def loaded(folder):
        found = load(folder)
        nn.init.zeros_(found.head.bias)
        return found

    check_saves_and_loads(model, tmp_path)
    monkeypatch.setattr(model_checks, "load", loaded)
    with pytest.raises(AssertionError, match=r"'head\.bias' is not what was saved"):
        check_saves_and_loads(model, tmp_path)


@pytest.fixture
def broken() -> Iterator[Callable[..., str]]:
    """Registers a search under a name, and forgets it behind the test."""

    def register(search: Callable[[Problem], Outcome], **properties) -> str:
        register_method("broken", **properties)(search)
        return "broken"

    yield register
    METHODS._things.pop("broken", None)


def by_chance(problem: Problem) -> Outcome:
    scores = {each.key: torch.rand(each.size) for each in problem.units}
    return Outcome(plan_from_scores(problem.units, scores, problem.budget))


def test_a_budget_that_is_missed(broken):
    name = broken(lambda problem: Outcome(random_plan(problem.units)))
    with pytest.raises(AssertionError, match=r"'broken' spends \d+\.\d+% of its budget of 0.9 macs"):
        check_meets_budget(tiny_problem(name, budget=0.9))


def test_a_method_that_makes_another_plan_each_time(broken):
    with pytest.raises(AssertionError, match="makes another plan the second time"):
        check_is_deterministic(tiny_problem(broken(by_chance)))


def changes(problem: Problem) -> Outcome:
    nn.init.zeros_(problem.model.head.bias)
    return Outcome(random_plan(problem.units))


def leaves_a_hook(problem: Problem) -> Outcome:
    problem.model.head.register_forward_hook(lambda *_: None)
    return Outcome(random_plan(problem.units))


def leaves_gradients(problem: Problem) -> Outcome:
    problem.model(problem.calibration[0][0]).sum().backward()
    return Outcome(random_plan(problem.units))


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (changes, "changes head.bias of the dense model"),
        (leaves_a_hook, "leaves hooks"),
        (leaves_gradients, "leaves gradients in the dense model"),
    ],
)
def test_a_method_that_does_not_leave_the_model_as_it_is(search, message, broken):
    with pytest.raises(AssertionError, match=message):
        check_is_deterministic(tiny_problem(broken(search)))


def test_a_method_that_says_it_changes_weights_and_makes_no_model(broken):
    name = broken(lambda problem: Outcome(random_plan(problem.units)), changes_weights=True)
    with pytest.raises(AssertionError, match="registered with changes_weights=True"):
        check_is_deterministic(tiny_problem(name))


def test_a_method_that_keeps_idle_units(broken):
    with pytest.raises(AssertionError, match=r"units of 'blocks\.0\.mlp:hidden' that nothing reads"):
        check_finds_idle_units(broken(lambda problem: Outcome(Plan.of(problem.units, keep_the_last(problem.units)))))


def keep_the_last(units: Units) -> dict[str, list[int]]:
    return {each.key: [0, *range(each.size // 2 + 1, each.size)] for each in units}


def test_a_method_that_takes_any_option(broken):
    class Anything:
        def __call__(self, problem):
            return Outcome(random_plan(problem.units))

    name = broken(Anything())
    object.__setattr__(METHODS.find(name), "own_options", lambda _config: None)
    with pytest.raises(AssertionError, match="takes an option that it does not have"):
        check_refuses_unknown_options(name)


def test_without_pytest_it_says_what_to_install():
    code = "import sys; sys.modules['pytest'] = None; import xpruner.testing"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UsageError: pytest is needed to test with xpruner.testing; pip install 'xpruner[dev]'." in run.stderr


def test_a_small_vit_takes_what_the_problems_hold():
    assert small_vit()(tiny_problem("taylor").calibration[0][0]).shape == (40, 5)
