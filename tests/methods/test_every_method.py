"""What every method keeps to: the budget, determinism, an untouched model, and what is planted is found."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from methods_setup import planted, tiny_problem
from tiny_models import VIT, build, footprint

from xpruner.config import MaskConfig, ThresholdConfig
from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs
from xpruner.methods import Outcome, Problem, find_method, list_methods
from xpruner.surgery import apply
from xpruner.units import find_units

METHODS = list_methods()


BUDGETS = [0.3, 0.7]
"""Half the cost is what the other tests ask for."""
TRAINED = ["nvit", "hvt", "s2vite", "scop", "uvc", "vit_slim", "wdpruning"]
"""Those that make ``search.steps`` updates; X-Pruner has stages of its own."""
REFUSE_SWIN = {"hvt": "cannot pool the tokens of this SwinTransformer", "torch_pruning": "this SwinTransformer"}


def test_every_method_registers_itself_those_in_sub_folders_too():
    assert len(METHODS) == 21 and {"xpruner", "uvc", "nvit"} < {*METHODS}


def small_model(**changes) -> torch.nn.Module:
    return build("vit_tiny_patch16_224", **VIT | changes)


def large_enough(name: str) -> torch.nn.Module:
    """Returns a model that has a point within 1 % of every budget: so many places for pools, so wide heads."""
    return small_model(depth=12) if name == "hvt" else small_model(embed_dim=96)


def searched(problem: Problem) -> Outcome:
    """Searches, and sees that no gradient is left behind in the trained weights."""
    outcome = find_method(problem.config.method)(problem)
    assert outcome.model is None or all(parameter.grad is None for parameter in outcome.model.parameters())
    return outcome


def cut(problem: Problem, outcome: Outcome) -> torch.nn.Module:
    return outcome.model if outcome.model is not None else apply(problem.model, outcome.plan)


def spent(problem: Problem) -> float:
    """Searches and returns the share of the budget that the pruned model takes by torch's counter."""
    return count_macs(cut(problem, searched(problem))) / (problem.budget.amount * count_macs(problem.model))


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", METHODS)
def test_the_budget_is_met_from_below_by_torchs_counter(name, budget):
    assert 0.99 <= spent(tiny_problem(name, large_enough(name), budget, steps=3, rounds=2)) <= 1 + 1e-9


@pytest.mark.parametrize("name", METHODS)
def test_swin_is_pruned_to_the_budget_or_refused(name, tiny_swin):
    problem = tiny_problem(name, tiny_swin, steps=3, rounds=2)
    if name in REFUSE_SWIN:
        with pytest.raises(UsageError, match=REFUSE_SWIN[name]):
            searched(problem)
    else:
        assert 0.99 <= spent(problem) <= 1 + 1e-9


@pytest.mark.parametrize("name", METHODS)
def test_it_is_deterministic_and_leaves_the_model_untouched(name):
    model, updates = small_model(), []
    before = {key: value.clone() for key, value in model.state_dict().items()}
    marks = footprint(model)
    problem = replace(tiny_problem(name, model, rounds=2), on_step=lambda step, _figures: updates.append(step))
    first, second = searched(problem), searched(problem)
    assert first.plan == second.plan
    assert (first.model is not None) == find_method(name).changes_weights
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert footprint(model) == marks
    assert bool(updates) == (name in TRAINED)  # whoever trains is stopped below
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(cut(problem, first).eval()(images), cut(problem, second).eval()(images))


def stopped_and_resumed(problem: Problem, update: int, folder: Path) -> tuple[Outcome, list[int]]:
    """Stops a search in its n-th update, resumes it, and returns its outcome and the steps that were made from then
    on."""
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
    """Stopped between two states, it resumes from the one before, and ends with the same plan and the same weights."""
    problem = tiny_problem(name, small_model(drop_path_rate=0.2), steps=13)
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
    model = small_model(drop_path_rate=0.2)
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
    plan = searched(tiny_problem(name, planted(small_model()), steps=12)).plan
    for key in ("blocks.0.mlp:hidden", "blocks.1.mlp:hidden"):
        kept = plan.keep.get(key, range(96))
        assert 0 in kept
        idle, useful = sum(unit >= 48 for unit in kept), sum(unit < 48 for unit in kept)
        assert idle == 0 or useful == 48


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'xpruner'"):
        find_method("xpruned")
