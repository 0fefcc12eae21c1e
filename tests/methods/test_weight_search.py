"""What searches that train share: the recipe of the weights, what a search is known by, and a clean model."""

from dataclasses import replace

import pytest
import torch
from methods_setup import DEEP, tiny_problem
from tiny_models import VIT, build
from torch import nn

from xpruner.errors import UsageError
from xpruner.methods import _weight_search as training
from xpruner.methods import find_method
from xpruner.methods._weight_search import WeightRecipe, identity, trainable_copy
from xpruner.plan.budget import Budget

TRAIN_WEIGHTS = ["nvit", "hvt", "s2vite", "uvc", "vit_slim", "wdpruning"]


def changed(problem, **finetune):
    """Returns the problem with other fields of its FinetuneConfig."""
    config = replace(problem.config, finetune=replace(problem.config.finetune, **finetune))
    return replace(problem, config=config)


def rates(recipe: WeightRecipe, steps: int) -> list[list[float]]:
    """Returns the rates of all parameter groups in every update."""
    found = []
    for step in range(1, steps + 1):
        recipe.before(step)
        found.append([group["lr"] for group in recipe.optimizer.param_groups])
    return found


def test_the_rate_rises_for_a_twentieth_and_falls_by_a_cosine(tiny_vit):
    """2 of 43 updates rise by 1/3 of the peak; the third has it, the 21st after that lies half way down."""
    problem = changed(tiny_problem("uvc", tiny_vit, steps=43), lr=9.0, min_lr=8.0, warmup=0.5)
    found = [row[0] for row in rates(WeightRecipe(tiny_vit, problem), 43)]
    assert found[:3] == pytest.approx([1e-4 / 3, 2e-4 / 3, 1e-4])
    assert found[22] == pytest.approx((1e-4 + 1e-6) / 2)
    assert found[-1] == pytest.approx(1e-6)


def test_the_rate_of_an_update_depends_on_its_number_alone(tiny_vit):
    problem = tiny_problem("uvc", tiny_vit, steps=40)
    whole, late = rates(WeightRecipe(tiny_vit, problem), 40), WeightRecipe(tiny_vit, problem)
    late.before(31)
    assert [group["lr"] for group in late.optimizer.param_groups] == whole[30]


def test_others_follow_with_their_own_peak_and_groups_added_later_stay(tiny_vit):
    follows, stays = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    problem = tiny_problem("uvc", tiny_vit, steps=40)
    recipe = WeightRecipe(tiny_vit, problem, [{"params": [follows], "lr": 5.0}])
    recipe.optimizer.add_param_group({"params": [stays], "lr": 3.0})
    found = rates(recipe, 40)
    assert found[2][-2:] == [5.0, 3.0]
    assert found[39][-2:] == pytest.approx([1e-6, 3.0])


def test_gradients_of_the_weights_are_clipped_as_in_fine_tuning(tiny_vit):
    gate = nn.Parameter(torch.ones(1))
    recipe = WeightRecipe(tiny_vit, changed(tiny_problem("uvc", tiny_vit), clip_grad=0.5))
    recipe.optimizer.add_param_group({"params": [gate]})
    tiny_vit.head.bias.grad, gate.grad = torch.tensor([3.0, 4.0, 0, 0, 0]), torch.tensor([9.0])
    assert recipe.before(1) == pytest.approx(5.0)
    assert tiny_vit.head.bias.grad.tolist() == pytest.approx([0.3, 0.4, 0, 0, 0])
    assert gate.grad.item() == 9.0


def test_a_trainable_copy_of_a_frozen_model_learns(tiny_vit):
    tiny_vit.requires_grad_(False).eval()
    copied = trainable_copy(tiny_vit)
    assert all(parameter.requires_grad for parameter in copied.parameters())
    assert all(module.training for module in copied.modules())
    assert not any(parameter.requires_grad for parameter in tiny_vit.parameters()) and not tiny_vit.training


def test_what_a_search_is_known_by(tiny_vit):
    problem = changed(tiny_problem("uvc", tiny_vit), weight_decay=0.1, clip_grad=2.0, label_smoothing=0.2)
    problem = replace(problem, budget=Budget(0.3, round_to={"hidden": 8}))
    assert identity(problem, eta=0.5) == {
        "budget": {"amount": 0.3, "resource": "macs", "round_to": {"hidden": 8}}, 
        "kinds": ["block", "head", "hidden", "v"], "lr": 1e-4, "weight_decay": 0.1, "clip_grad": 2.0,
        "label_smoothing": 0.2, "temperature": 1.0, "eta": 0.5,
    }  # fmt: skip
    assert identity(problem, lr=0.02)["lr"] == 0.02


@pytest.mark.parametrize("name", ["uvc", "wdpruning", "s2vite", "nvit", "vit_slim", "scop"])
def test_fp16_is_refused_where_nothing_scales_the_loss(name):
    problem = tiny_problem(name)
    problem = replace(problem, config=replace(problem.config, precision="fp16"))
    with pytest.raises(
        UsageError, match=rf"fp16, in which the gradients of {name} would vanish; choose bf16 or fp32\.$"
    ):
        find_method(name).check(problem)


def deep_enough(name: str) -> nn.Module:
    """Returns a model in which a method meets a budget of a half: hvt has so many places for its pools."""
    return build("vit_tiny_patch16_224", **(DEEP if name == "hvt" else VIT))


@pytest.mark.parametrize("name", TRAIN_WEIGHTS)
def test_a_frozen_model_is_trained_and_comes_out_without_gradients(name):
    dense = deep_enough(name).requires_grad_(False)
    model = find_method(name)(tiny_problem(name, dense, steps=2)).model
    assert not torch.equal(model.head.weight, dense.head.weight)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in dense.parameters())


@pytest.mark.parametrize("name", TRAIN_WEIGHTS)
def test_a_search_with_another_recipe_does_not_go_on(name, tmp_path):
    problem = replace(tiny_problem(name, deep_enough(name), steps=1), state_dir=tmp_path)
    find_method(name)(problem)
    for key, value in {"weight_decay": 0.3, "label_smoothing": 0.4}.items():
        with pytest.raises(UsageError, match=rf"was made with {key} 0\.\d+, not {value}"):
            find_method(name)(changed(problem, **{key: value}))


@pytest.mark.parametrize("name", ["nvit", "s2vite", "uvc", "vit_slim", "wdpruning"])
def test_every_search_trains_its_weights_by_the_recipe(name, monkeypatch):
    steps, before = [], WeightRecipe.before
    monkeypatch.setattr(WeightRecipe, "before", lambda recipe, step: steps.append(step) or before(recipe, step))
    find_method(name)(tiny_problem(name, steps=3))
    assert steps == [1, 2, 3]
    monkeypatch.setattr(training, "LR", 0.0)
    monkeypatch.setattr(training, "MIN_LR", 0.0)
    problem = tiny_problem(name, budget=0.9, steps=3)
    outcome = find_method(name)(problem)
    assert torch.equal(outcome.model.head.weight, problem.model.head.weight)
