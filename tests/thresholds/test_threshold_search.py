"""Stage 2 and the method around it: the budget is met, and what is planted is found."""

import json
from dataclasses import replace

import pytest
import torch
from methods_setup import batches
from tiny_models import Noise

from xpruner.calibration.moments import consumer_moments
from xpruner.config import CompensateConfig, DataConfig, MaskConfig, RunConfig, ThresholdConfig, preset
from xpruner.masks.class_masks import ClassMasks
from xpruner.masks.evidence import class_evidence
from xpruner.methods import Problem, find_method
from xpruner.methods.xpruner.rounds import LEVEL
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.thresholds.operation import pruning_operation
from xpruner.thresholds.search import open_start, search_thresholds
from xpruner.training.options import LoopOptions
from xpruner.units import find_units

CONFIGS = {
    "lagrangian": ThresholdConfig(steps=6, constraint="lagrangian", compensated=False, warmup=0.3),
    "hinge sigmoid": ThresholdConfig(steps=6, constraint="hinge", compensated=False, form="sigmoid", slope_start=8.0),
    "projected": ThresholdConfig(steps=6, compensated=False, distill=False),
    "compensated": ThresholdConfig(steps=6, mask_lr=0.05, refit_every=2),
    "global rank": ThresholdConfig(mode="global_rank"),
    "no steps": ThresholdConfig(steps=0),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("budget", [Budget(0.5), Budget(0.7, "params")])
def test_the_budget_is_met_from_below(tiny_vit, name, budget):
    units = find_units(tiny_vit)
    torch.manual_seed(1)
    masks = ClassMasks(units, 5)
    masks.start_from({g.key: torch.rand(5, g.size) for g in units})
    plan = search_thresholds(
        tiny_vit, masks, budget, Noise(40), CONFIGS[name], LoopOptions(8),
        moments=consumer_moments(tiny_vit, units, batches()),
    )  # fmt: skip
    reached = plan.cost[f"{budget.resource}_pruned"] / plan.cost[f"{budget.resource}_dense"]
    assert 0.98 * budget.amount <= reached <= budget.amount  # the tiny model's heads are 2 % of it


def test_without_a_step_one_threshold_serves_all_layers(tiny_vit):
    """Layers may count a thousand times less than others: then they are pruned first, as by the importance alone."""
    units = find_units(tiny_vit)
    masks = ClassMasks(units, 5)
    masks.start_from({g.key: torch.rand(5, g.size) * 1000.0 ** -(i % 2) for i, g in enumerate(units)})
    plan = search_thresholds(tiny_vit, masks, Budget(0.5), Noise(40), ThresholdConfig(steps=0), LoopOptions(8))
    assert plan.keep == plan_from_scores(units, masks.importance("odds"), Budget(0.5), "xpruner").keep


@pytest.mark.parametrize("form", ["power", "sigmoid"])
def test_every_threshold_starts_just_below_its_own_layer(form):
    """At the 1 % quantile of its layer, 0.501 and 0.00101 here, nine tenths of a unit are kept."""
    importance = {"a:head": torch.tensor([0.5, 0.6]), "b:hidden": torch.tensor([0.001, 0.002])}
    theta = open_start(importance, ThresholdConfig(form=form, slope_start=8.0))
    low = torch.tensor([0.501, 0.00101])
    torch.testing.assert_close(pruning_operation(low, theta, 8.0, form), torch.tensor([0.9, 0.9]))


@pytest.mark.parametrize(("constraint", "warns"), [("lagrangian", True), ("projected", False)])
def test_a_search_that_ends_far_from_the_budget_says_so(tiny_vit, caplog, constraint, warns):
    """One step from an open start leaves nearly all of the cost; a projected one is at the budget in any case."""
    units = find_units(tiny_vit)
    masks = ClassMasks(units, 5)
    masks.start_from({g.key: torch.rand(5, g.size) for g in units})
    config = ThresholdConfig(steps=1, constraint=constraint, compensated=False)
    search_thresholds(tiny_vit, masks, Budget(0.5), Noise(40), config, LoopOptions(8))
    assert ("of the cost where 0.50 was asked for" in caplog.text) == warns


def test_the_price_of_the_budget_is_part_of_the_loss(tiny_vit):
    """By the squared hinge of weight 100, from an open start that costs more than is asked for."""
    masks = ClassMasks(find_units(tiny_vit), 5)
    config = ThresholdConfig(steps=1, constraint="hinge", compensated=False, warmup=0.0)
    steps = []
    options = LoopOptions(8, on_step=lambda _, figures: steps.append(figures))
    search_thresholds(tiny_vit, masks, Budget(0.5), Noise(40), config, options)
    (step,) = steps
    assert step["cost"] > 0.8
    assert step["loss"] == pytest.approx(step["task"] + 100 * (step["cost"] - 0.5) ** 2)


def run_config(name: str) -> RunConfig:
    config = preset(name)
    return replace(
        config,
        data=DataConfig(batch_size=8),
        masks=replace(config.masks, steps=min(config.masks.steps, 5)),
        thresholds=replace(config.thresholds, steps=min(config.thresholds.steps, 5)),
        precision="fp32",
    )


def problem(model, config: RunConfig) -> Problem:
    return Problem(model, find_units(model), Noise(40), batches(), 5, Budget(0.5), config)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_method_is_deterministic_and_leaves_the_model_alone(tiny_vit, name):
    before = {key: value.clone() for key, value in tiny_vit.state_dict().items()}
    first, second = (find_method("xpruner")(problem(tiny_vit, run_config(name))) for _ in range(2))
    assert first.plan == second.plan
    assert all(torch.equal(first.masks[key], second.masks[key]) for key in first.masks)
    assert all(torch.equal(value, before[key]) for key, value in tiny_vit.state_dict().items())


def test_a_dead_unit_goes_and_a_planted_important_one_stays(tiny_vit):
    """Hidden unit 0 of every block drives the output, half of the others are never read."""
    with torch.no_grad():
        for block in tiny_vit.blocks:
            block.mlp.fc2.weight[:, 0] *= 20
            block.mlp.fc2.weight[:, 48:] = 0
    plan = find_method("xpruner")(problem(tiny_vit, run_config("default"))).plan
    for key in ("blocks.0.mlp:hidden", "blocks.1.mlp:hidden"):
        assert 0 in plan.keep[key]
        assert max(plan.keep[key]) < 48


def test_where_nothing_is_compensated_a_unit_counts_as_a_whole(tiny_vit):
    """Then sequential evidence is Taylor's; with compensation it is another."""
    base = replace(run_config("default"), rounds=1)
    masks = {}
    for mode in ("none", "affine"):
        for evidence in ("at_removal", "taylor"):
            config = replace(base, compensate=CompensateConfig(mode=mode), masks=MaskConfig(evidence=evidence))
            outcome = find_method("xpruner")(problem(tiny_vit, config))
            masks[mode, evidence] = torch.cat([table.flatten() for table in outcome.masks.values()])
    assert torch.equal(masks["none", "at_removal"], masks["none", "taylor"])
    assert not torch.allclose(masks["affine", "at_removal"], masks["affine", "taylor"])


def test_finished_rounds_are_not_computed_again(tiny_vit, tmp_path):
    """Only the last round is missing: it is computed on what the first left, and the outcome is the same."""
    setting = replace(problem(tiny_vit, replace(run_config("default"), rounds=2)), state_dir=tmp_path)
    whole = find_method("xpruner")(setting)
    (tmp_path / "round-2" / "plan.json").unlink()
    first = (tmp_path / "round-1" / "plan.json").stat().st_mtime_ns
    again = find_method("xpruner")(setting)
    assert (tmp_path / "round-1" / "plan.json").stat().st_mtime_ns == first
    assert again.plan == whole.plan
    assert again.figures == whole.figures
    assert all(torch.equal(again.masks[key], whole.masks[key]) for key in whole.masks)


def test_masks_of_all_rounds_are_on_the_scale_of_the_last(tiny_vit, tmp_path):
    """A unit that was pruned in the first round keeps its evidence: its odds times the last round's level."""
    config = replace(run_config("default"), rounds=2, masks=MaskConfig(evidence="taylor"), seed=0)
    setting = replace(problem(tiny_vit, config), state_dir=tmp_path)
    outcome = find_method("xpruner")(setting)
    first, last = (json.loads((tmp_path / f"round-{n}" / "figures.json").read_text())[LEVEL] for n in (1, 2))
    assert first != last and LEVEL not in outcome.figures
    temperature = config.masks.temperature
    evidence = class_evidence(tiny_vit, setting.units, setting.calibration, 5, temperature=temperature)
    key = "blocks.0.mlp:hidden"
    left = Plan.load(tmp_path / "round-1" / "plan.json").keep[key]
    pruned = [i for i in range(96) if i not in left]
    odds = torch.special.logit(outcome.masks[key][:, pruned].double()).exp()
    expected = evidence[key][:, pruned].double() / setting.units[key].macs
    torch.testing.assert_close(odds * last, expected, rtol=1e-3, atol=1e-5 * last)
