"""Every step by hand: find units, score them, make a plan, cut, compensate, evaluate."""

# %% The dense model and the images of the first example.
import runpy
from pathlib import Path

import torch

import xpruner

if not Path("runs/digits/structure.json").exists():
    runpy.run_path(str(Path(__file__).with_name("01_first_prune.py")))

dense = xpruner.load("runs/digits")
data = xpruner.load_data(xpruner.DataConfig("digits", calibration_size=256), xpruner.InputSpec.of(dense), seed=0)
calibration = xpruner.calibration_batches(data.calibration, batch_size=64)

# %% Units: attention heads and hidden units of MLPs, group by group, with what one of them costs.
units = xpruner.find_units(dense, ["head", "hidden"])
print(units)

# %% Scores: for each group one number a unit, higher is kept. Here: how much the layer that reads a unit can get from
# it, the norm of its weights times the deviation of the unit's output over the calibration images.
moments = xpruner.consumer_moments(dense, units, calibration)
scores = {}
for group in units:
    deviation = moments[group.key].covariance.diag().clamp(min=0).sqrt()
    weight = dense.get_submodule(group.consumer).weight.detach().norm(dim=0)
    strength = (deviation * weight)[group.channels].sum(1)
    scores[group.key] = strength / group.macs  # for the same MACs, one head or many hidden units

# %% Plan: the highest scores that the budget allows, as plain data.
plan = xpruner.plan_from_scores(units, scores, xpruner.Budget.parse("0.6"))
plan.save("plan.json")
print(plan)

# %% Cut, and let the layers that read the units compensate for those that are gone: no labels, no gradients.
pruned = xpruner.apply(dense, plan)
before = xpruner.evaluate(pruned, data.test)
xpruner.compensate(pruned, dense, plan, calibration)
after = xpruner.evaluate(pruned, data.test)
print(f"top-1 {xpruner.evaluate(dense, data.test):.1%} dense, {before:.1%} cut, {after:.1%} compensated")

# %% Cutting is exact: a dense model whose units are closed by gates computes the same.
cut = xpruner.apply(dense, plan)
pixels = calibration[0][0]
with torch.no_grad(), xpruner.gating(dense, units, plan.gates()):
    gated = dense(pixels)
print(f"the cut and the gated model differ by {(cut(pixels) - gated).abs().max():.0e}")
