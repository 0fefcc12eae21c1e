"""What every method keeps to: the budget, determinism, an untouched model, and what is planted is found."""

from dataclasses import replace

import pytest
import torch
from methods_setup import DEEP, planted, tiny_problem
from tiny_models import VIT, build, footprint

from xpruner.cost import count_macs
from xpruner.errors import UsageError
from xpruner.methods import find_method, method_names
from xpruner.surgery import apply

METHODS = method_names()


def small_model(**changes) -> torch.nn.Module:
    return build("vit_tiny_patch16_224", **VIT | changes)


def cut(problem, outcome) -> torch.nn.Module:
    return outcome.model if outcome.model is not None else apply(problem.model, outcome.plan)


@pytest.mark.parametrize("name", METHODS)
def test_the_budget_is_met_by_torchs_counter(name):
    problem = tiny_problem(name, build("vit_tiny_patch16_224", **DEEP), steps=3)
    reached = count_macs(cut(problem, find_method(name)(problem)))
    assert abs(reached / (0.5 * count_macs(problem.model)) - 1) <= 0.01


@pytest.mark.parametrize("name", METHODS)
def test_it_is_deterministic_and_leaves_the_model_untouched(name):
    model = small_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    marks = footprint(model)
    first, second = (find_method(name)(tiny_problem(name, model)) for _ in range(2))
    assert first.plan == second.plan
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert footprint(model) == marks
    images = torch.randn(2, 3, 32, 32)
    problem = tiny_problem(name, model)
    with torch.no_grad():
        assert torch.equal(cut(problem, first).eval()(images), cut(problem, second).eval()(images))


TRAINED = ["hessian", "hvt", "s2vite", "scop", "uvc", "vit_slim", "wdpruning"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_stopped_search_ends_as_one_left_alone(name, tmp_path):
    """Stopped between two states, it goes on from the one before, and ends with the same plan and the same weights."""

    def stop(step, _figures):
        if step == 10:
            raise KeyboardInterrupt

    problem = tiny_problem(name, small_model(drop_path_rate=0.2), steps=13)
    problem.config.finetune = replace(problem.config.finetune, checkpoint_every=4)
    whole = find_method(name)(problem)
    kept = replace(problem, state_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        find_method(name)(replace(kept, on_step=stop))
    steps = []
    resumed = find_method(name)(replace(kept, on_step=lambda step, _: steps.append(step)))
    assert steps == [9, 10, 11, 12, 13]
    assert resumed.plan == whole.plan and resumed.figures == whole.figures
    weights = cut(problem, whole).state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in cut(problem, resumed).state_dict().items())


WITHOUT_PREFERENCE = {"random", "hvt", "scop"}
"""One keeps units by chance, one all of them, and one finds nothing in noise to prefer: test_scop.py has images."""


@pytest.mark.parametrize("name", sorted(set(METHODS) - WITHOUT_PREFERENCE))
def test_a_planted_unit_stays_and_idle_ones_go_first(name):
    plan = find_method(name)(tiny_problem(name, planted(small_model()), steps=12)).plan
    for key in ("blocks.0.mlp:hidden", "blocks.1.mlp:hidden"):
        kept = plan.keep.get(key, range(96))
        assert 0 in kept
        idle, useful = sum(unit >= 48 for unit in kept), sum(unit < 48 for unit in kept)
        assert idle == 0 or useful == 48


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'xpruner'"):
        find_method("xpruned")
