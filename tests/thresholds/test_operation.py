import pytest
import torch
from tiny_models import group, some_plan, units_of

from xpruner.plan.budget import minimum
from xpruner.thresholds.operation import (
    AugmentedLagrangian,
    SquaredHinge,
    Thresholds,
    expected_cost,
    project,
    pruning_operation,
    slope,
    standardised,
    warm_target,
)
from xpruner.units import Units

FORMS = ["power", "sigmoid"]
HAND = Units((group("a:head", 2, macs=10, params=3), group("b:hidden", 4, macs=5, params=2)), 50, 20, (3, 8, 8))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1.0, 50.0])
def test_half_of_a_unit_at_the_threshold_is_kept(form, n):
    assert pruning_operation(torch.tensor([0.3]), torch.tensor(0.3), n, form).item() == pytest.approx(0.5)


def test_the_power_form_by_hand():
    k = pruning_operation(torch.tensor([0.2, 0.4, 1.0]), torch.tensor(0.4), 2.0)
    torch.testing.assert_close(k, torch.tensor([0.04 / 0.2, 0.5, 1 / 1.16]))


def test_the_sigmoid_form_by_hand():
    k = pruning_operation(torch.tensor([0.2, 0.6]), torch.tensor(0.4), 10.0, "sigmoid")
    torch.testing.assert_close(k, torch.sigmoid(torch.tensor([-2.0, 2.0])))


@pytest.mark.parametrize("form", FORMS)
def test_more_importance_keeps_more_and_a_higher_threshold_less(form):
    s = torch.linspace(0.05, 1, 20)
    k = pruning_operation(s, torch.tensor(0.4), 4.0, form)
    assert (k.diff() > 0).all()
    assert (pruning_operation(s, torch.tensor(0.5), 4.0, form) < k).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_steeper_operation_comes_closer_to_zero_and_one(form):
    s, theta = torch.tensor([0.3, 0.5]), torch.tensor(0.4)
    below, above = torch.stack([pruning_operation(s, theta, n, form) for n in (1.0, 10.0, 100.0, 1000.0)]).T
    assert (below.diff() < 0).all() and (above[:3].diff() > 0).all()
    assert below[-1].item() == pytest.approx(0, abs=1e-6)
    assert above[-1].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_in_importance_and_threshold(form):
    s = torch.tensor([0.1, 0.39, 0.8], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, theta: pruning_operation(s, theta, 6.0, form), (s, theta))


def test_no_importance_at_all_is_pruned_without_a_nan():
    s = torch.tensor([0.0], requires_grad=True)
    k = pruning_operation(s, torch.tensor(0.4), 6.0)
    k.sum().backward()
    assert k.item() == 0
    assert s.grad.item() == 0


def test_importance_in_units_of_its_own_spread():
    """0, 1, 2, 4 and 8 have the median 2 and the standard deviation 8^0.5; powers of e have their exponents'."""
    exponents = torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0])
    relative = (exponents - 2) / 8**0.5
    torch.testing.assert_close(standardised(exponents, "sigmoid"), relative)
    torch.testing.assert_close(standardised(exponents.exp()).log(), relative)
    torch.testing.assert_close(standardised(1e-6 * exponents.exp()).log(), relative)


@pytest.mark.parametrize("form", FORMS)
def test_importance_that_hardly_differs_is_not_blown_up(form):
    assert standardised(torch.full((4,), 0.3), form).unique().tolist() == [1.0 if form == "power" else 0.0]
    apart = standardised(torch.tensor([1.0, 1.001]), form)
    assert 0.01 < apart[1] - apart[0] < 0.03  # 0.001 of LEAST_SPREAD


def test_the_slope_rises_geometrically():
    assert [slope(p, 2.0, 200.0) for p in (0.0, 0.5, 1.0)] == pytest.approx([2, 20, 200])


def test_the_target_falls_linearly_and_then_stays():
    assert [warm_target(p, 0.6, 0.5) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1, 0.8, 0.6, 0.6])
    assert warm_target(0.0, 0.6, 0.0) == 0.6


@pytest.mark.parametrize("form", FORMS)
def test_every_group_has_a_threshold_of_its_own(form):
    thresholds = Thresholds(HAND, torch.tensor([0.25, 0.25]), form)
    torch.testing.assert_close(thresholds.theta(), torch.tensor([0.25, 0.25]))
    with torch.no_grad():
        thresholds.raw[1] += 1
    importance = {"a:head": torch.full((2,), 0.25), "b:hidden": torch.full((4,), 0.25)}
    keep = thresholds.keep(importance, 8.0)
    assert keep["a:head"].tolist() == pytest.approx([0.5, 0.5])
    assert keep["b:hidden"].tolist() == pytest.approx([torch.tensor(-8.0).sigmoid().item()] * 4)
    keep["b:hidden"].sum().backward()
    assert thresholds.raw.grad[0] == 0 > thresholds.raw.grad[1]


@pytest.mark.parametrize("form", FORMS)
def test_margins_order_units_as_one_common_offset_would_keep_them(form):
    thresholds = Thresholds(HAND, torch.tensor([0.4, 0.4]), form)
    with torch.no_grad():
        thresholds.raw += torch.tensor([0.3, -0.2])
    importance = {group.key: torch.rand(group.size) for group in HAND}
    margins = torch.cat(list(thresholds.margins(importance).values()))
    keep = torch.cat(list(thresholds.keep(importance, 5.0).values()))
    torch.testing.assert_close(torch.sigmoid(5 * margins), keep)
    order = margins.argsort()
    with torch.no_grad():
        thresholds.raw += margins[order[2:4]].mean()
    kept = torch.cat(list(thresholds.keep(importance, 5.0).values())) > 0.5
    assert kept[order].tolist() == [False] * 3 + [True] * 3


def test_margins_by_hand():
    thresholds = Thresholds(HAND, torch.tensor([0.5, 0.5]))
    margins = thresholds.margins({"a:head": torch.tensor([0.5, 1.0]), "b:hidden": torch.zeros(4)})
    assert margins["a:head"].tolist() == pytest.approx([0, 0.6931472])
    assert torch.isfinite(margins["b:hidden"]).all()


def test_expected_cost_by_hand():
    keep = {"a:head": torch.tensor([1.0, 0.5]), "b:hidden": torch.tensor([1.0, 0.0, 0.0, 0.2])}
    assert expected_cost(keep, HAND).item() == pytest.approx((50 - 5 - 14) / 50)
    assert expected_cost(keep, HAND, "params").item() == pytest.approx((20 - 1.5 - 5.6) / 20)
    assert expected_cost({"a:head": keep["a:head"]}, HAND).item() == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["vit", "swin"])
@pytest.mark.parametrize("resource", ["macs", "params"])
def test_expected_cost_of_hard_gates_is_the_plans_cost(name, resource):
    units = units_of(name)
    plan = some_plan(units)
    share = units.cost(plan.keep, resource) / units.total(resource)
    assert expected_cost(plan.gates(), units, resource).item() == pytest.approx(share)


def test_the_lagrangian_after_three_ascents():
    penalty = AugmentedLagrangian(rate=1.0, curvature=10.0)
    assert penalty(torch.tensor(0.6), 0.5).item() == 0
    for cost in (1.0, 0.8, 0.4):  # gaps 0.5, 0.3 and -0.1
        penalty.ascend(cost, 0.5)
    assert penalty.lam1.item() == pytest.approx(0.5 + 0.3 - 0.1)
    assert penalty.lam2.item() == pytest.approx(10 * (0.25 + 0.09 + 0.01))
    assert penalty(torch.tensor(0.6), 0.5).item() == pytest.approx(0.7 * 0.1 + 3.5 * 0.01)


def test_the_lagrangian_does_not_learn_by_gradient():
    penalty = AugmentedLagrangian(rate=2.0)
    penalty.ascend(0.75, 0.5)
    cost = torch.tensor(0.75, requires_grad=True)
    value = penalty(cost, 0.5)
    penalty.ascend(0.75, 0.5)  # between forward and backward, and yet:
    value.backward()
    assert cost.grad.item() == pytest.approx(0.5 + 2 * 1.25 * 0.25)  # lam1 + 2 lam2 gap
    assert list(penalty.parameters()) == []


def test_the_hinge_by_hand():
    penalty = SquaredHinge(weight=100.0)
    penalty.ascend(0.7, 0.5)
    assert penalty(torch.tensor(0.7), 0.5).item() == pytest.approx(4)
    assert penalty(torch.tensor(0.4), 0.5).item() == 0


def split(margins):
    return margins.split([group.size for group in units_of("vit")])


def project_vit(margins, target, resource="macs"):
    units = units_of("vit")
    parts = dict(zip((group.key for group in units), split(margins), strict=True))
    return project(parts, 6.0, units, target, resource)


@pytest.mark.parametrize("resource", ["macs", "params"])
@pytest.mark.parametrize("target", [0.8, 0.5])
def test_projected_gates_meet_the_budget(target, resource):
    margins = torch.randn(198, dtype=torch.float64)
    soft, hard = project_vit(margins, target, resource)
    units = units_of("vit")
    assert expected_cost(soft, units, resource).item() == pytest.approx(target, abs=1e-9)
    dearest = max(getattr(group, resource) for group in units) / units.total(resource)
    assert target - dearest < expected_cost(hard, units, resource).item() <= target
    kept = torch.cat(list(hard.values())).bool()
    protected = torch.cat([m >= m.topk(minimum(g)).values[-1] for g, m in zip(units, split(margins), strict=True)])
    assert kept[protected].all()
    assert margins[kept & ~protected].min() > margins[~kept].max()


def test_projected_gates_by_hand():
    units = Units((group("a:head", 2, macs=1),), 2, 2, (3, 8, 8))
    soft, hard = project({"a:head": torch.tensor([3.0, 1.0], dtype=torch.float64)}, 2.0, units, 0.5)
    torch.testing.assert_close(soft["a:head"], torch.sigmoid(torch.tensor([2.0, -2.0], dtype=torch.float64)))
    assert hard["a:head"].tolist() == [1, 0]


def test_the_gradient_of_projected_gates_knows_the_offset():
    margins = torch.randn(198, dtype=torch.float64)

    def soft(some):
        gates, _ = project_vit(torch.cat([some, margins[8:]]), 0.6)
        return torch.cat(list(gates.values()))

    assert torch.autograd.gradcheck(soft, margins[:8].requires_grad_(), atol=1e-4)
