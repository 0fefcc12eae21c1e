"""What every method keeps to: the budget, determinism, an untouched model, and what is planted is found."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from xpruner.config import MaskConfig, ThresholdConfig
from xpruner.errors import UsageError
from xpruner.methods import Outcome, Problem, find_method, list_methods
from xpruner.surgery import apply
from xpruner.testing import (
    check_finds_idle_units,
    check_is_deterministic,
    check_meets_budget,
    check_refuses_unknown_options,
    small_vit,
    tiny_problem,
)
from xpruner.units import find_units

METHODS = list_methods()


BUDGETS = [0.3, 0.7]
"""Half the cost is what the other tests ask for."""
TRAINED = ["nvit", "hvt", "s2vite", "scop", "uvc", "vit_slim", "wdpruning"]
"""Those that make ``search.steps`` updates; X-Pruner has stages of its own."""
REFUSE_SWIN = {"hvt": "cannot pool the tokens of this SwinTransformer", "torch_pruning": "this SwinTransformer"}


def test_every_method_registers_itself_those_in_sub_folders_too():
    assert len(METHODS) == 21 and {"xpruner", "uvc", "nvit"} < {*METHODS}


def large_enough(name: str) -> torch.nn.Module:
    """Returns a model that has a point within 1 % of every budget: so many places for pools, so wide heads."""
    return small_vit(depth=12) if name == "hvt" else small_vit(embed_dim=96)


def searched(problem: Problem) -> Outcome:
    return find_method(problem.config.method)(problem)


def cut(problem: Problem, outcome: Outcome) -> torch.nn.Module:
    return outcome.model if outcome.model is not None else apply(problem.model, outcome.plan)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", METHODS)
def test_the_budget_is_met_from_below_by_torchs_counter(name, budget):
    check_meets_budget(tiny_problem(name, large_enough(name), budget, steps=3, rounds=2))


@pytest.mark.parametrize("name", METHODS)
def test_swin_is_pruned_to_the_budget_or_refused(name, tiny_swin):
    problem = tiny_problem(name, tiny_swin, steps=3, rounds=2)
    if name in REFUSE_SWIN:
        with pytest.raises(UsageError, match=REFUSE_SWIN[name]):
            searched(problem)
    else:
        check_meets_budget(problem)


@pytest.mark.parametrize("name", METHODS)
def test_it_is_deterministic_and_leaves_the_model_untouched(name):
    updates = []
    problem = tiny_problem(name, small_vit(), rounds=2)
    check_is_deterministic(replace(problem, on_step=lambda step, _figures: updates.append(step)))
    assert bool(updates) == (name in TRAINED)  # whoever trains is stopped below


@pytest.mark.parametrize("name", METHODS)
def test_an_option_that_it_does_not_have_is_refused(name):
    check_refuses_unknown_options(name)


def stopped_and_resumed(problem: Problem, update: int, folder: Path) -> tuple[Outcome, list[int]]:
    """Stops a search in its n-th update, goes on, and returns its outcome and the steps that were made from then on."""
    numbers, steps = count(1), []

    def stop(_step, _figures):
        if next(numbers) == update:
            raise KeyboardInterrupt

    problem = replace(problem, state_dir=folder)
    with pytest.raises(KeyboardInterrupt):
        searched(replace(problem, on_step=stop))
    return searched(replace(problem, on_step=lambda step, _figures: steps.append(step))), steps


@pytest.mark.parametrize("name", TRAINED)
def test_a_stopped_search_ends_as_one_left_alone(name, tmp_path):
    """Stopped between two states, it goes on from the one before, and ends with the same plan and the same weights."""
    problem = tiny_problem(name, small_vit(drop_path_rate=0.2), steps=13)
    problem.config.finetune = replace(problem.config.finetune, checkpoint_every=4)
    whole = searched(problem)
    resumed, steps = stopped_and_resumed(problem, 10, tmp_path)
    assert steps == [9, 10, 11, 12, 13]
    assert resumed.plan == whole.plan and resumed.figures == whole.figures
    weights = cut(problem, whole).state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in cut(problem, resumed).state_dict().items())


@pytest.mark.parametrize("stage", [2, 3], ids=["thresholds of the first round", "masks of the second"])
def test_xpruner_stopped_between_or_within_rounds_ends_as_one_left_alone(stage, tmp_path):
    """Each of the four stages makes five updates; one is stopped in the last, with a state behind the fourth."""
    model = small_vit(drop_path_rate=0.2)
    problem = tiny_problem(
        "xpruner", model, rounds=2, masks=MaskConfig(steps=5), thresholds=ThresholdConfig(steps=5, mask_lr=0.01)
    )
    problem = replace(problem, units=find_units(model, ["head", "hidden"]))
    problem.config.finetune = replace(problem.config.finetune, checkpoint_every=4)
    whole = searched(problem)
    resumed, steps = stopped_and_resumed(problem, 5 * stage, tmp_path)
    assert steps == [5] + [1, 2, 3, 4, 5] * (4 - stage)
    assert resumed.plan == whole.plan and resumed.figures == whole.figures
    assert whole.masks and all(torch.equal(mask, whole.masks[key]) for key, mask in resumed.masks.items())


WITHOUT_PREFERENCE = {"random", "hvt", "scop"}
"""One keeps units by chance, one all of them, and one finds nothing in noise to prefer: test_scop.py has images."""


@pytest.mark.parametrize("name", sorted(set(METHODS) - WITHOUT_PREFERENCE))
def test_a_planted_unit_stays_and_idle_ones_go_first(name):
    check_finds_idle_units(name)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'xpruner'"):
        find_method("xpruned")
