"""WDPruning: gradients by hand, what thresholds say, the price of the budget, and resuming."""

import math
from dataclasses import replace

import pytest
import torch
from methods_setup import planted, tiny_problem
from tiny_models import VIT, build, group, tiny
from torch.nn import functional as F
from torch.testing import assert_close

from xpruner.measure.macs import count_macs
from xpruner.methods import find_method
from xpruner.methods.wdpruning import (
    LAMBDA_RATE,
    TIE_BREAK,
    ShallowClassifiers,
    TopShare,
    Widths,
    _Run,
    _tie_breaks,
    kept_count,
    shallow_places,
)
from xpruner.plan.budget import Budget
from xpruner.plan.solver import plan_from_scores
from xpruner.units import Units


def widths(sizes: dict[str, int], start: dict[str, list]) -> Widths:
    groups = tuple(group(key, size) for key, size in sizes.items())
    units = Units(groups, sum(sizes.values()), sum(sizes.values()), (3, 32, 32))
    return Widths(units, {key: torch.tensor(start[key]).float() for key in sizes})


def vit(**changes) -> torch.nn.Module:
    return build("vit_tiny_patch16_224", **VIT | changes)


def test_gradients_pass_straight_through():
    saliency = torch.tensor([0.1, 0.4, 0.3, 0.2], requires_grad=True)
    theta = torch.tensor(0.0, requires_grad=True)
    mask = TopShare.apply(saliency, theta, 2)
    assert mask.tolist() == [0, 1, 1, 0]
    (mask * torch.tensor([1.0, 2.0, 4.0, 8.0])).sum().backward()
    assert saliency.grad.tolist() == [1, 2, 4, 8]  # also those that are masked
    assert theta.grad.item() == 2 + 4  # g x mask


@pytest.mark.parametrize(
    ("kind", "size", "share", "count"),
    [
        ("head", 3, 1.0, 3),
        ("head", 3, 0.66, 2),
        ("head", 3, 0.67, 3),  # ceil(2.01)
        ("head", 12, 0.5, 6),
        ("head", 3, 0.0, 1),
        ("hidden", 96, 0.5, 48),
        ("hidden", 96, 0.501, 49),
        ("hidden", 96, 0.01, 8),
        ("hidden", 768, 0.5, 384),
        ("hidden", 768, 0.515, 400),  # ceil(395.52) = 396 lies between 384 and 400
        ("hidden", 768, 0.505, 384),  # 388
        ("hidden", 250, 1.0, 250),
        ("hidden", 2050, 1.0, 2050),
        ("hidden", 768, 0.0, 8),
    ],
)
def test_how_many_units_a_threshold_keeps(kind, size, share, count):
    assert kept_count(group(f"blocks.0.x:{kind}", size), share) == count


def test_it_starts_dense_and_thresholds_narrow_it():
    learned = widths({"a:head": 3, "a:hidden": 96}, {"a:head": [0.0, 2, 1], "a:hidden": list(range(96))})
    assert all(mask.min() == 1 for mask in learned().values())
    with torch.no_grad():
        learned.theta.copy_(torch.tensor([0.0, math.log(1 / 3)]))  # shares 1/2 and 1/4
    masks = learned()
    assert masks["a:head"].tolist() == [0, 1, 1]
    assert masks["a:hidden"].nonzero().flatten().tolist() == list(range(72, 96))


def test_a_plan_continues_the_thresholds():
    learned = widths({"a:hidden": 80, "b:hidden": 40}, {"a:hidden": list(range(80)), "b:hidden": list(range(40))})
    with torch.no_grad():
        learned.theta.copy_(torch.tensor([0.0, math.log(3)]))  # shares 1/2 and 3/4
    margins = learned.margins()
    assert_close(margins["a:hidden"][79], -torch.logit(torch.tensor(0.5 / 80, dtype=torch.double)))
    plan = plan_from_scores(learned.units, margins, Budget(70 / 120))
    assert [len(plan.keep[key]) for key in ("a:hidden", "b:hidden")] == [40, 30]
    assert plan.keep["a:hidden"] == list(range(40, 80))
    fewer = plan_from_scores(
        learned.units, margins, Budget(43 / 120)
    )  # an offset of -1 leaves 0.269 x 80 and 0.525 x 40
    assert [len(fewer.keep[key]) for key in ("a:hidden", "b:hidden")] == [22, 21]


def test_ties_are_broken_by_evidence_and_idle_units_stay_at_zero():
    start = _tie_breaks(tiny_problem("wdpruning", planted(vit())))
    hidden = start["blocks.0.mlp:hidden"]
    assert hidden[0] == hidden.max() == TIE_BREAK * torch.tensor(95 / 96)
    assert torch.all(hidden[48:] == 0) and torch.all(hidden[:48] >= TIE_BREAK * 0.499)


def test_shallow_classifiers_by_hand():
    classifiers = ShallowClassifiers({"a": 4, "b": 6}, 5)
    inputs = {"a": torch.randn(2, 7, 4), "b": torch.randn(2, 3, 3, 6)}
    labels = torch.tensor([1, 3])
    assert_close(classifiers.loss(inputs, labels), torch.tensor(2 * math.log(5)))
    with torch.no_grad():
        for parameter in classifiers.heads.parameters():
            parameter.normal_()
    expected = F.cross_entropy(classifiers.heads[0](F.layer_norm(inputs["a"].mean(1), (4,))), labels)
    expected = expected + F.cross_entropy(classifiers.heads[1](F.layer_norm(inputs["b"].mean((1, 2)), (6,))), labels)
    assert_close(classifiers.loss(inputs, labels), expected)


def test_shallow_classifiers_are_part_of_the_loss():
    """The one of a network of two blocks, still zero, gives each of five classes a fifth; no price is asked for yet."""
    run = _Run(tiny_problem("wdpruning"))
    loss, figures = run.loss(0.0, torch.randn(4, 3, 32, 32), torch.arange(4))
    assert loss.item() == pytest.approx(figures["task"] + math.log(5))


def test_where_shallow_classifiers_read():
    assert shallow_places(vit(depth=12)) == ["blocks.8", "blocks.10"]
    assert shallow_places(vit(depth=2)) == ["blocks.1"]
    assert shallow_places(vit(depth=1)) == []
    assert shallow_places(tiny("swin")) == ["layers.1.blocks.1"]  # 4 blocks: number 3 twice


def test_only_weight_matrices_are_decayed_and_every_weight_is_trained():
    run = _Run(tiny_problem("wdpruning"))
    decay = {id(p): group["weight_decay"] for group in run.recipe.optimizer.param_groups for p in group["params"]}
    assert decay.keys() == {id(parameter) for parameter in run.learned.parameters()}
    free = [run.model.cls_token, run.model.pos_embed, run.widths.theta, *run.widths.saliencies]
    assert all(decay[id(parameter)] == 0 for parameter in free)
    assert decay[id(run.model.head.weight)] == 0.05


def test_the_budget_has_a_price_only_above_it():
    run = _Run(tiny_problem("wdpruning", budget=0.5))
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    run.loss(0.0, images, labels)
    assert run.constraint.lam1.item() == pytest.approx(LAMBDA_RATE / 6 * 0.5)  # ascent by the gap, from a dense network
    lam1, lam2 = run.constraint.lam1.clone(), run.constraint.lam2.clone()
    dear, _ = run.loss(0.0, images, labels)
    with torch.no_grad():
        run.widths.theta.fill_(-3.0)
        run.constraint.lam1.copy_(lam1)
    cheap, figures = run.loss(0.0, images, labels)
    assert figures["cost"] < 0.5 and run.constraint.lam1 == lam1
    run.constraint.lam1.zero_()
    assert run.loss(0.0, images, labels)[0] == cheap  # the price was none
    run.constraint.lam1.copy_(lam1), run.constraint.lam2.copy_(lam2)
    with torch.no_grad():
        run.widths.theta.fill_(10.0)
    gap = 0.5
    run.constraint.lam1.zero_(), run.constraint.lam2.zero_()
    assert_close(dear - run.loss(0.0, images, labels)[0], lam1 * gap + lam2 * gap**2)


@pytest.mark.parametrize("amount", [0.4, 0.7])
def test_the_thresholds_reach_the_budget_in_the_steps_there_are(amount):
    problem = tiny_problem("wdpruning", vit(depth=4, num_heads=6), budget=amount, steps=80)
    costs = []
    outcome = find_method("wdpruning")(replace(problem, on_step=lambda _, figures: costs.append(figures["cost"])))
    assert costs[0] == 1
    assert max(costs[48:]) < amount + 0.05  # after 60 %
    assert outcome.figures["cost"] < amount + 0.05  # nothing pulls it up again: with random weights, less loses less
    assert 0.98 * amount <= outcome.plan.cost["macs_pruned"] / outcome.plan.cost["macs_dense"] <= amount
    assert count_macs(outcome.model) == pytest.approx(outcome.plan.cost["macs_pruned"])


def test_the_model_that_comes_out_is_trained_and_clean():
    problem = tiny_problem("wdpruning")
    model = find_method("wdpruning")(problem).model
    assert not torch.equal(model.cls_token, problem.model.cls_token)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training and not any(module._forward_pre_hooks for module in model.modules())


def test_windowed_models_and_a_single_block_are_pruned_as_well():
    for model in (tiny("swin"), vit(depth=1)):
        problem = tiny_problem("wdpruning", model, budget=0.6, steps=3)
        outcome = find_method("wdpruning")(problem)
        assert 0.58 <= count_macs(outcome.model) / count_macs(problem.model) <= 0.6
