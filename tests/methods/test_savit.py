import math

import pytest
import torch
from methods_setup import scopes_cut_by_score, tiny_problem
from tiny_models import SWIN, VIT, build, group
from torch.nn import functional as F

from xpruner.methods import find_method
from xpruner.methods._scoring import rank_shares
from xpruner.methods.savit import (
    MOST_REMOVED,
    convex,
    curvature,
    evolve,
    fitting_ratio,
    layered,
    loss_increase,
    removed_at,
)
from xpruner.methods.taylor import mean_over_images
from xpruner.plan.budget import Budget
from xpruner.units import Units
from xpruner.units.gates import gating

KINDS = ["head", "hidden", "embed"]


def loss_at(problem, point):
    images, labels = problem.calibration[0]
    gates = {g.key: torch.full((g.size,), point[KINDS.index(g.kind)], dtype=torch.double) for g in problem.units}
    with torch.no_grad(), gating(problem.model, problem.units, gates):
        return F.cross_entropy(problem.model(images[::10].double()), labels[::10]).item()


def test_the_curvature_is_that_of_the_loss_by_finite_differences(monkeypatch):
    torch.manual_seed(0)
    problem = tiny_problem("savit")
    monkeypatch.setattr("xpruner.methods.savit.convex", lambda matrix: matrix)
    found = curvature(problem, KINDS)
    problem.model.double()
    step, eye = 1e-3, torch.eye(3, dtype=torch.double)
    for i in range(3):
        for j in range(3):
            corners = [loss_at(problem, 1 + step * (a * eye[i] + b * eye[j])) for a in (1, -1) for b in (1, -1)]
            wanted = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * step**2)
            assert found[i, j].item() == pytest.approx(wanted, rel=1e-2, abs=1e-4)


def test_negative_curvature_is_left_out():
    torch.testing.assert_close(convex(torch.tensor([[2.0, 0.0], [0.0, -3.0]])), torch.tensor([[2.0, 0.0], [0.0, 0.0]]))


def test_the_increase_adds_scores_and_the_collaboration_of_kinds():
    scores = {"a:head": torch.tensor([1.0, 9.0]), "a:hidden": torch.tensor([4.0, 4.0, 16.0, 0.0])}
    gone = {"a:head": torch.tensor([True, False]), "a:hidden": torch.tensor([True, True, False, False])}
    matrix = torch.tensor([[2.0, 3.0], [3.0, 4.0]], dtype=torch.double)
    # of the heads' slopes 1 of 1 + 3 is removed, of the hidden units' 2 + 2 of 2 + 2 + 4
    collaboration = 2 * (1 / 4) ** 2 + 2 * 3 * (1 / 4) * (1 / 2) + 4 * (1 / 2) ** 2
    assert loss_increase(gone, scores, matrix, ["head", "hidden"]) == pytest.approx(0.5 * (1 + 4 + 4 + collaboration))


def test_the_ratio_that_follows_meets_the_budget():
    groups = group("a.attn:head", 4, macs=10), group("a.mlp:hidden", 100, macs=1)
    units = Units(groups, 200, 200, (3, 8, 8))  # 60 cannot be pruned
    shares = {each.key: rank_shares(torch.arange(each.size)) for each in groups}
    # of 200, with one head of four gone, 70 hidden units may be kept beside 30 for heads and 60 for the rest
    found = fitting_ratio(units, shares, {"head": 0.25}, "hidden", Budget(160))
    assert found == pytest.approx(0.3, abs=2e-3)
    gone = removed_at(shares, {"head": 0.25, "hidden": found})
    assert gone["a.attn:head"].tolist() == [True, False, False, False]
    assert gone["a.mlp:hidden"].sum() == 30
    assert fitting_ratio(units, shares, {"head": 0.0}, "hidden", Budget(95)) == 1.0  # 100 are left without hidden units


def test_ratios_come_before_the_kind_that_follows_from_the_budget():
    shares = {"a:head": torch.tensor([0.5, 1.0]), "a:hidden": torch.tensor([0.25, 1.0])}
    found = layered(shares, {"head": 0.5})
    assert found["a:head"].tolist() == [0.5, 3.0]  # the lower half is kept last
    assert found["a:hidden"].tolist() == [1.25, 2.0]


def test_evolution_finds_the_least_of_a_bowl_and_keeps_within_bounds():
    best = evolve(lambda r: (r[0] - 0.3) ** 2 + (r[1] - 2.0) ** 2, 2, seed=0)
    assert best[0] == pytest.approx(0.3, abs=0.05)
    assert best[1] == MOST_REMOVED
    assert evolve(lambda r: math.fsum(r), 2, seed=3) == evolve(lambda r: math.fsum(r), 2, seed=3)
    assert evolve(lambda r: 0.0, 0, seed=0) == ()


def test_each_kind_is_cut_globally_and_within_the_budget():
    torch.manual_seed(0)
    problem = tiny_problem("savit", build("vit_tiny_patch16_224", **VIT | dict(num_heads=6, depth=4)))
    plan = find_method("savit")(problem).plan
    assert plan.cost["macs_pruned"] == pytest.approx(problem.budget.target(problem.units), rel=0.01)
    scores = mean_over_images(problem, torch.square)
    found = scopes_cut_by_score(plan, problem.units, scores, lambda each: each.kind)
    assert found == {"head": True, "hidden": True, "embed": True}


def test_where_layers_differ_in_cost_units_of_one_kind_and_cost_are_cut_together():
    torch.manual_seed(0)
    problem = tiny_problem("savit", build("swin_tiny_patch4_window7_224", **SWIN))
    plan = find_method("savit")(problem).plan
    assert plan.cost["macs_pruned"] == pytest.approx(problem.budget.target(problem.units), rel=0.01)
    scores = mean_over_images(problem, torch.square)
    found = scopes_cut_by_score(plan, problem.units, scores, lambda each: (each.kind, each.macs))
    assert all(found.values()) and {kind for kind, _ in found} >= {"hidden", "embed"}
