"""What every method keeps to: each check raises AssertionError where it does not."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from xpruner.config import SearchConfig
from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs, count_params
from xpruner.methods import Outcome, Problem, find_method
from xpruner.surgery import apply
from xpruner.testing.models import footprint, small_vit
from xpruner.testing.problems import IDLE, planted, tiny_problem

SHORTFALL = 0.01
"""A method may leave this share of its budget unspent."""


def check_meets_budget(problem: Problem) -> None:
    """Checks that a method's model costs at most the budget, and at most 1 % less, by torch's counter.

    Args:
        problem: Its configuration names the method.

    Raises:
        AssertionError: If it costs more or less, or the search leaves gradients behind.
    """
    model = _cut(problem, _searched(problem))
    count = count_macs(model) if problem.budget.resource == "macs" else count_params(model)
    spent = count / problem.budget.target(problem.units)
    assert 1 - SHORTFALL <= spent <= 1 + 1e-9, (
        f"{problem.config.method!r} spends {spent:.2%} of its budget of {problem.budget.amount:g} "
        f"{problem.budget.resource}; it is met from below, within {SHORTFALL:.0%}."
    )


def check_is_deterministic(problem: Problem) -> Outcome:
    """Checks that a method finds the same twice, and leaves the model and its hooks, modes and gradients as they were.

    Args:
        problem: Its configuration names the method.

    Returns:
        What the method found.

    Raises:
        AssertionError: If something differs.
    """
    name, model = problem.config.method, problem.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    marks = footprint(model)
    first, second = _searched(problem), _searched(problem)
    assert first.plan == second.plan, f"{name!r} makes another plan the second time; draw from a seeded generator."
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert not changed, f"{name!r} changes {', '.join(changed)} of the dense model; let it work on a copy."
    assert all(p.grad is None for p in model.parameters()), f"{name!r} leaves gradients in the dense model."
    assert footprint(model) == marks, f"{name!r} leaves hooks, modes or attributes behind in the dense model."
    assert (first.model is not None) == find_method(name).changes_weights, (
        f"{name!r} is registered with changes_weights={find_method(name).changes_weights}, which says whether its "
        "outcomes hold a model."
    )
    images = problem.calibration[0][0][:2]  # type: ignore[index]
    with torch.no_grad():
        outputs = [_cut(problem, outcome).eval()(images) for outcome in (first, second)]
    assert torch.equal(*outputs), f"The models that {name!r} makes of one problem compute different outputs."
    return first


def check_refuses_unknown_options(method: str) -> None:
    """Checks that a method refuses an option of its own that it does not have.

    Args:
        method: Its name.

    Raises:
        AssertionError: If it searches all the same.
    """
    problem = tiny_problem(method)
    problem.config.search = SearchConfig(options={"no_such_option": 1})
    try:
        find_method(method)(problem)
    except UsageError:
        return
    raise AssertionError(f"{method!r} takes an option that it does not have; register it with options=.")


def check_finds_idle_units(method: str, options: Mapping[str, Any] | None = None) -> None:
    """Checks that hidden units that nothing reads are pruned before any other, and the one that drives all is kept.

    Args:
        method: Its name.
        options: The method's own.

    Raises:
        AssertionError: If a useful unit is pruned while an idle one is kept.
    """
    plan = find_method(method)(tiny_problem(method, planted(small_vit()), steps=12, options=options)).plan
    for key in ("blocks.0.mlp:hidden", "blocks.1.mlp:hidden"):
        kept = plan.keep.get(key, range(2 * IDLE))
        idle, useful = sum(unit >= IDLE for unit in kept), sum(unit < IDLE for unit in kept)
        assert 0 in kept, f"{method!r} prunes the unit of {key!r} that drives the output."
        assert idle == 0 or useful == IDLE, (
            f"{method!r} keeps {idle} units of {key!r} that nothing reads, and prunes {IDLE - useful} useful ones."
        )


def _searched(problem: Problem) -> Outcome:
    outcome = find_method(problem.config.method)(problem)
    left = outcome.model is not None and any(p.grad is not None for p in outcome.model.parameters())
    assert not left, f"{problem.config.method!r} leaves gradients in the model that it makes."
    return outcome


def _cut(problem: Problem, outcome: Outcome) -> nn.Module:
    return outcome.model if outcome.model is not None else apply(problem.model, outcome.plan)
