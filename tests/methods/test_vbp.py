from dataclasses import replace

import torch
from hand_made import half_of_the_units_constant
from methods_setup import tiny_problem

from xpruner.methods.vbp import vbp
from xpruner.plan.budget import Budget
from xpruner.runtime.hooks import capture_inputs


def test_constant_units_go_and_their_bias_makes_up_for_them_exactly():
    """However large they are, units without variance go first; nothing changes but the cost."""
    problem = half_of_the_units_constant("vbp")
    outcome = vbp(problem)
    assert all(kept == list(range(48)) for kept in outcome.plan.keep.values())
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(outcome.model(images), problem.model(images), rtol=1e-4, atol=1e-4)


def test_the_mean_of_what_goes_is_added_to_the_bias():
    problem = half_of_the_units_constant("vbp")
    problem = replace(problem, budget=Budget(problem.units.cost({"blocks.1.mlp:hidden": list(range(48))})))
    with torch.no_grad():
        problem.model.blocks[0].mlp.fc1.weight[:] = torch.randn(
            96, 24
        )  # only the second block's units are constant now
    outcome = vbp(problem)
    dense, pruned = problem.model.blocks[1].mlp.fc2, outcome.model.blocks[1].mlp.fc2
    three = torch.nn.functional.gelu(torch.tensor(3.0))
    expected = dense.bias + dense.weight[:, 48:].sum(1) * three
    assert outcome.plan.keep["blocks.1.mlp:hidden"] == list(range(48))
    torch.testing.assert_close(pruned.bias, expected)
    torch.testing.assert_close(pruned.weight, dense.weight[:, :48])


def test_least_variance_goes_first_in_all_layers_together():
    """Hidden units of a ViT cost the same, so that one threshold on the variance separates the kept ones."""
    problem = half_of_the_units_constant("vbp")
    problem = replace(problem, budget=Budget(0.8))
    with torch.no_grad(), capture_inputs(problem.model, problem.units.of_consumers()) as inputs:
        problem.model(problem.calibration[0][0])
    variances = {g.key: inputs[g.consumer].flatten(0, -2).var(0, correction=0) for g in problem.units}
    plan = vbp(problem).plan
    kept = torch.cat([variances[key][indices] for key, indices in plan.keep.items()])
    gone = torch.cat([variances[key][sorted({*range(96)} - {*indices})] for key, indices in plan.keep.items()])
    assert len(gone) > 0
    assert gone.max() <= kept.min()


def test_heads_go_too_so_that_small_budgets_are_met():
    problem = tiny_problem("vbp", budget=0.45)
    plan = vbp(problem).plan
    assert sum(len(plan.keep[key]) for key in ("blocks.0.attn:head", "blocks.1.attn:head")) < 6
    assert plan.cost["macs_pruned"] <= 0.45 * plan.cost["macs_dense"]
