"""UVC: every step of its minimax problem against values computed by hand, and what comes of them."""

from dataclasses import replace

import pytest
import torch
from methods_setup import DEEP, tiny_problem
from tiny_models import SWIN, build, group
from torch import nn
from torch.nn import functional as F

from xpruner.errors import UsageError
from xpruner.measure.macs import count_macs
from xpruner.methods import find_method
from xpruner.methods.uvc import dual as uvc_dual
from xpruner.methods.uvc import search as uvc
from xpruner.methods.uvc.dual import Compression, column_norms
from xpruner.plan.budget import Budget
from xpruner.surgery import apply
from xpruner.units import Term, Units, find_units

STEPS = 10
UNITS = Units(
    (group("b:block", 1), group("one:head", 4), group("two:head", 4)), 20, 20, (3, 8, 8),
    (Term(4, 4, ("one:head",)), Term(8, 8, ("two:head",)), Term(6, 6, ("b:block", "one:head"))),
)  # fmt: skip


@pytest.fixture
def rates_of_one(monkeypatch):
    """Makes every rate 1 a search, so 1 / 10 a step of these."""
    for name in ("TRAVEL", "PROXIMAL", "DUAL", "PRICE", "SKIP"):
        monkeypatch.setattr(uvc_dual, name, 1.0)


def two_layers() -> nn.Module:
    """Returns two consumers of four units each, whose columns have the squared norms 4, 1, 16 and 9."""
    model = nn.ModuleDict({name: nn.ModuleDict({"consumer": nn.Linear(4, 2)}) for name in ("one", "two")})
    with torch.no_grad():
        for layer in model.values():
            layer["consumer"].weight.copy_(torch.tensor([[2.0, 0, 4, 0], [0, 1, 0, 3]]))
    return model


def compression(target: float = 0.5, **state) -> tuple[nn.Module, Compression]:
    model = two_layers()
    made = Compression(model, UNITS, "macs", target, STEPS)
    with torch.no_grad():
        for name, value in state.items():
            getattr(made, name).copy_(torch.tensor(value))
    return model, made


def test_a_head_has_the_sum_of_its_columns_and_a_value_dimension_one_of_each_head():
    model = two_layers()
    heads = replace(group("one:head", 2, width=2))
    assert column_norms(model, heads).tolist() == [5, 25]
    dims = replace(heads, kind="v", gates=(replace(heads.gates[0], outer=2, inner=1),))
    assert column_norms(model, dims).tolist() == [20, 10]


@pytest.mark.usefixtures("rates_of_one")
def test_the_proximal_step_divides_the_least_columns():
    # with a dual of 5 and a rate of 1 / 10 a step: 1 + 2 x 5 / 10 = 2; of s = 1.2 two units go
    model, made = compression(removed=[1.2, 0.0], dual=[5.0, 5.0])
    made.shrink(model)
    assert model["one"]["consumer"].weight.tolist() == [[1, 0, 4, 0], [0, 0.5, 0, 3]]
    assert torch.equal(model["two"]["consumer"].weight, two_layers()["two"]["consumer"].weight)


@pytest.mark.usefixtures("rates_of_one")
def test_the_cost_counts_whole_units_and_its_slope_goes_straight_through():
    _, made = compression(removed=[1.2, 0.1], run=[0.0])
    cost, by_share, by_run = made.cost_and_slopes()  # 2 units and 1 go, and the block, as likely skipped as run
    assert cost == pytest.approx((20 - 4 / 2 - 8 / 4 - 6) / 20)
    assert by_share.tolist() == pytest.approx([-4 / 20, -8 / 20])
    assert by_run.tolist() == pytest.approx([6 / 20 * 0.5 * 0.25])  # of the heads that it costs, a half is left


@pytest.mark.usefixtures("rates_of_one")
@pytest.mark.parametrize(
    ("removed", "dual", "price", "expected"),
    [
        (1.0, 0.3, 1.0, 1 + 0.4 * (1 - 0.3 * 4 / 7.5)),  # the next to go is worth less than its cost: more go
        (1.0, 3.0, 1.0, 1.0),  # the next is worth more, the last one gone less: s rests
        (1.0, 15.0, 1.0, 1 - 0.4 * (15 * 1 / 7.5 - 1)),  # the last one gone is worth more: it comes back
        (3.0, 30.0, 0.0, 3 - 0.4 * 2**0.5),  # gradients of 36 and 0, brought to a root mean square of 1
        (2.9, 0.0, 1.0, 3.0),  # one head must stay
        (0.1, 15.0, 0.0, 0.0),  # none comes back that did not go
    ],
)
def test_s_descends(removed, dual, price, expected):
    model, made = compression(removed=[removed, 0.0], dual=[dual, 0.0], price=price)
    made.steepness.fill_(0.5)  # the slopes of the cost, -10 / 20 and -8 / 20, become -1 and -0.8
    made.descend(made.sorted_scores(model))
    assert made.removed[0].item() == pytest.approx(expected)


@pytest.mark.usefixtures("rates_of_one")
@pytest.mark.parametrize(("target", "expected"), [(0.6, 1 + 0.4), (0.7, 1.0)])
def test_the_price_of_a_met_budget_takes_no_unit(target, expected):
    model, made = compression(target=target, removed=[1.0, 2.0], price=1.0)
    assert 0.6 < made.cost_and_slopes()[0] < 0.7
    made.steepness.fill_(0.5)
    made.descend(made.sorted_scores(model))
    assert made.removed[0].item() == pytest.approx(expected)


def test_slopes_are_relative_to_those_of_the_dense_model():
    assert compression()[1].steepness.item() == pytest.approx(((0.5**2 + 0.4**2) / 2) ** 0.5)


@pytest.mark.usefixtures("rates_of_one")
def test_duals_ascend_by_what_their_constraints_lack():
    model, made = compression(removed=[1.2, 0.0], dual=[0.25, 0.5])
    made.ascend(made.sorted_scores(model))
    assert made.dual.tolist() == pytest.approx([0.25 + 0.1 * (1 + 4) / 7.5 / 4, 0.5])
    assert made.price.item() == pytest.approx(0.1 * (15 / 20 - 0.5) / 0.5)  # 2 of 4 go, of a cost of 10


@pytest.mark.usefixtures("rates_of_one")
def test_the_price_does_not_fall_below_0():
    model, made = compression(target=0.9, price=0.2, removed=[3.0, 0.0])  # costs 12.5 of 20
    made.ascend(made.sorted_scores(model))
    assert made.price.item() == 0


@pytest.mark.usefixtures("rates_of_one")
@pytest.mark.parametrize(("price", "expected"), [(2.0, -0.5 * (0.05 + 2 * 3 * 6 / 20 / 4)), (100.0, -1.0)])
def test_logits_of_blocks_weigh_the_task_against_the_price(price, expected):
    _, made = compression(target=0.6, run=[0.0], price=price)  # without the block 14 of 20 are left
    made.choose_blocks(torch.tensor([0.05]), worth=3.0, share=0.5)
    assert made.run.item() == pytest.approx(expected)


@pytest.mark.usefixtures("rates_of_one")
def test_the_price_of_a_met_budget_takes_no_block():
    _, made = compression(target=0.8, run=[0.0], price=2.0)
    made.choose_blocks(torch.tensor([0.05]), worth=3.0, share=0.5)
    assert made.run.item() == pytest.approx(-0.5 * 0.05)


@pytest.mark.parametrize(
    ("steps", "budget", "kinds"),
    [
        (30, 0.5, ("head", "hidden", "v")),
        (60, 0.3, ("head", "hidden", "v")),
        (30, 0.5, ("head", "hidden", "v", "block")),
        (60, 0.3, ("head", "hidden", "v", "block")),
    ],
)
def test_the_expected_cost_falls_to_the_budget_within_the_steps(steps, budget, kinds):
    costs = {}
    model = build("vit_tiny_patch16_224", **DEEP | {"embed_dim": 48, "num_heads": 6, "depth": 8})
    problem = tiny_problem("uvc", model, budget=budget, steps=steps)
    problem = replace(problem, units=find_units(problem.model, kinds))
    outcome = uvc.search(replace(problem, on_step=lambda step, figures: costs.update({step: figures["cost"]})))
    assert costs[steps // 6] == 1
    assert min(costs.values()) > budget - 0.1 and outcome.figures["cost"] == pytest.approx(budget, abs=0.02)
    assert outcome.plan.cost["macs_pruned"] / outcome.plan.cost["macs_dense"] == pytest.approx(budget, rel=0.01)


@pytest.mark.usefixtures("rates_of_one")
def test_no_block_goes_that_the_budget_would_not_miss():
    """Of 20 the block costs 6 and is about to go: a target of 13.8 lets it, one of 14.2 does not."""
    for target, run in ((0.69, 0.01 - 0.5 * 0.05), (0.71, 0.01)):
        _, made = compression(target=target, run=[0.01])
        made.choose_blocks(torch.tensor([0.05]), worth=3.0, share=0.5)
        assert made.run.item() == pytest.approx(run)


def decided(problem, **state) -> Compression:
    made = Compression(problem.model, problem.units, "macs", 0.5, STEPS)
    with torch.no_grad():
        for name, value in state.items():
            getattr(made, name).copy_(value)
    return made


def test_the_plan_keeps_what_the_counts_and_logits_keep():
    problem = tiny_problem("uvc", build("vit_tiny_patch16_224", **DEEP))
    removed = torch.tensor([float(g.size // 3) for g in problem.units if g.kind != "block"])
    run = torch.full((12,), 0.1)
    run[3] = -0.1
    made = decided(problem, removed=removed, run=run)
    budget = Budget(made.cost_and_slopes()[0] + 1e-6)
    plan = uvc._plan(replace(problem, budget=budget), problem.model, made)
    for group_ in problem.units:
        if group_.module == "blocks.3":
            assert plan.keep[group_.key] == []
        elif not group_.key.startswith("blocks.3."):
            gone = set(range(group_.size)) - set(plan.keep[group_.key])
            count = 0 if group_.kind == "block" else group_.size // 3
            least = [] if group_.kind == "block" else column_norms(problem.model, group_).argsort()[:count].tolist()
            assert gone == set(least)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_the_budget_holds_after_blocks_went(share):
    problem = tiny_problem("uvc", build("vit_tiny_patch16_224", **DEEP), budget=share)
    made = decided(problem, run=-torch.arange(1.0, 13.0))  # the last block is the surest to be skipped
    plan = uvc._plan(problem, problem.model, made)
    skipped = [block for block in range(12) if not plan.keep[f"blocks.{block}:block"]]
    assert skipped == list(range(12 - len(skipped), 12)) and 0 < len(skipped) < 12
    assert count_macs(apply(problem.model, plan)) / count_macs(problem.model) == pytest.approx(share, rel=0.01)
    assert plan.cost["macs_pruned"] <= share * plan.cost["macs_dense"]


def test_windows_in_stages_meet_the_budget():
    problem = tiny_problem("uvc", build("swin_tiny_patch4_window7_224", **SWIN))
    outcome = uvc.search(problem)
    assert count_macs(outcome.model) / count_macs(problem.model) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    ("kinds", "sentence"),
    [
        (("head", "qk"), r"the qk units of 'blocks\.0\.attn' have none of their own; leave 'qk' out"),
        (("block",), "cannot meet a budget by blocks alone; add 'head' or 'hidden'"),
    ],
)
def test_units_without_columns_are_refused(kinds, sentence):
    problem = tiny_problem("uvc")
    with pytest.raises(UsageError, match=sentence):
        find_method("uvc")(replace(problem, units=find_units(problem.model, kinds)))


def test_the_dense_models_outputs_teach_beside_the_labels():
    problem = tiny_problem("uvc")
    training = uvc._Training(problem)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    with torch.no_grad():
        training.model.head.bias += torch.arange(5.0)
        dense, student = problem.model(images), training.model(images)
        loss, _ = training.loss(0.0, images, labels)
    apart = F.kl_div(student.log_softmax(1), dense.softmax(1), reduction="batchmean")
    told = F.cross_entropy(student, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, 0.1 * apart + 0.9 * told)


def test_blocks_follow_the_loss_once_the_warm_up_is_over():
    """Two of twelve updates warm up; then a slope this steep takes 1, the most, from a logit of 3."""
    training = uvc._Training(tiny_problem("uvc", steps=12))
    run = training.compression.run
    for step, logit in ((2, 3.0), (3, 2.0), (4, 1.0)):
        run.grad = torch.ones(2)
        training.after(step)
        assert run.tolist() == [logit, logit]
