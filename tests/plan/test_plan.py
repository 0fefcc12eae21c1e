import errno
import json
from pathlib import Path

import pytest
import timm
import torch
from tiny_models import group, units_of

from xpruner.errors import UsageError, XPrunerError
from xpruner.plan.budget import Budget, minimum
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.units import Term, Units, find_units

HAND = Units(
    (group("a:head", 3, macs=10, params=4), group("b:hidden", 10, macs=1, params=2)),
    total_macs=100,  # 60 of which cannot be removed
    total_params=50,
    input_size=(3, 8, 8),
)
SCORES = {"a:head": torch.tensor([0.1, 0.9, 0.5]), "b:hidden": torch.arange(10) / 10 + 0.05}


@pytest.mark.parametrize(
    ("text", "amount", "resource"),
    [
        ("0.5", 0.5, "macs"),
        (0.5, 0.5, "macs"),
        (1, 1.0, "macs"),
        ("600M", 6e8, "macs"),
        ("2.4g", 2.4e9, "macs"),
        (" macs:0.5 ", 0.5, "macs"),
        ("params:3M", 3e6, "params"),
        ("params:0.25", 0.25, "params"),
        ("500k", 5e5, "macs"),
        ("6e8", 6e8, "macs"),
        (1e-3, 1e-3, "macs"),
        (Budget(0.3, "params"), 0.3, "params"),
    ],
)
def test_budgets_that_can_be_read(text, amount, resource):
    assert Budget.parse(text) == Budget(pytest.approx(amount), resource)


@pytest.mark.parametrize("text", ["half", "", "0", "-0.5", "50%", "0.5.5", "flops:0.5", "600MB", "nan", "0K", "."])
def test_budgets_that_cannot(text):
    with pytest.raises(UsageError, match=f"budget '{text}' is out of range; write a fraction above 0 and at most 1"):
        Budget.parse(text)


def test_targets_are_fractions_up_to_one_and_absolute_above():
    assert Budget(0.8).target(HAND) == 80
    assert Budget(1.0).target(HAND) == 100
    assert Budget(90).target(HAND) == 90
    assert Budget(0.8, "params").target(HAND) == 40
    assert Budget(45, "params").target(HAND) == 45


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(0.7), r"0\.7 macs is out of reach: the dense model has 100 and the smallest .* 78 \(0\.780 of it\)"),
        (Budget(101), r"101 macs is out of reach"),
        (
            Budget(0.7, "params"),
            r"0\.7 params .* has 50 and the smallest that keeps 1 head and 8 hidden .* 38 \(0\.760",
        ),
    ],
)
def test_a_target_out_of_reach_names_the_reachable(budget, message):
    with pytest.raises(UsageError, match=message):
        budget.target(HAND)


def test_the_smallest_reachable_target_is_reachable():
    plan = plan_from_scores(HAND, SCORES, Budget(78))
    assert plan.keep == {"a:head": [1], "b:hidden": list(range(2, 10))}


def test_a_group_smaller_than_the_minimum_keeps_all():
    assert [minimum(group("a:hidden", size)) for size in (5, 8, 20)] == [5, 8, 8]
    assert minimum(group("a:head", 5)) == 1


@pytest.mark.parametrize(
    ("budget", "heads", "first_hidden", "cost"),
    [
        (79, [1], 1, 79),
        (80, [1], 0, 80),
        (0.88, [1, 2], 2, 88),
        (0.9, [1, 2], 0, 90),  # the head of score 0.1 would overshoot; the hidden unit of score 0.05 fits
        (1.0, [0, 1, 2], 0, 100),
    ],
)
def test_the_best_units_that_fit_are_kept(budget, heads, first_hidden, cost):
    plan = plan_from_scores(HAND, SCORES, Budget(budget), "by hand")
    assert plan.keep == {"a:head": heads, "b:hidden": list(range(first_hidden, 10))}
    assert plan.cost["macs_pruned"] == cost
    assert (plan.method, plan.budget) == ("by hand", {"amount": budget, "resource": "macs", "round_to": {}})
    assert plan.sizes == {"a:head": 3, "b:hidden": 10}


def test_budgets_and_plans_are_shares_of_the_dense_model():
    """Two heads and five hidden units less are 25 of 100 MACs and 18 of 50 parameters."""
    assert [Budget(amount).share(HAND) for amount in (0.8, 80.0)] == [0.8, 0.8]
    assert Budget(40.0, "params").share(HAND) == 0.8
    plan = Plan.of(HAND, {"a:head": [1], "b:hidden": range(5)})
    assert (plan.share(), plan.share("params")) == (0.75, 0.64)


def test_params_can_be_the_budget():
    plan = plan_from_scores(HAND, SCORES, Budget(44, "params"))
    assert plan.keep == {"a:head": [1, 2], "b:hidden": list(range(1, 10))}
    assert plan.cost == {"macs_dense": 100, "macs_pruned": 89, "params_dense": 50, "params_pruned": 44}


def test_scores_compare_across_groups():
    worthless_heads = {**SCORES, "a:head": torch.tensor([-3.0, -1.0, -2.0])}
    assert plan_from_scores(HAND, worthless_heads, Budget(0.8)).keep == {"a:head": [1], "b:hidden": list(range(10))}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(bad):
    with pytest.raises(XPrunerError, match="scores of 'a:head' are not all finite") as caught:
        plan_from_scores(HAND, {**SCORES, "a:head": torch.tensor([0.1, bad, 0.5])}, Budget(0.9))
    assert caught.value.exit_code == 1


@pytest.fixture(scope="module")
def deit_tiny() -> Units:
    with torch.device("meta"):
        return find_units(timm.create_model("deit_tiny_patch16_224"))


@pytest.mark.parametrize("amount", [0.7, 0.5, 0.3])
@pytest.mark.parametrize("resource", ["macs", "params"])
def test_a_real_models_budget_is_met_from_below(deit_tiny, amount, resource):
    scores = {group.key: torch.randn(group.size) for group in deit_tiny}
    plan = plan_from_scores(deit_tiny, scores, Budget(amount, resource))
    reached = plan.cost[f"{resource}_pruned"] / plan.cost[f"{resource}_dense"]
    assert 0.99 * amount <= reached <= amount
    assert deit_tiny.cost(plan.keep, resource) == plan.cost[f"{resource}_pruned"]
    assert all(len(plan.keep[group.key]) >= minimum(group) for group in deit_tiny)


@pytest.mark.parametrize("name", ["vit", "swin", "swin_padded_windows"])
@pytest.mark.parametrize("amount", [0.7, 0.5])
def test_a_tiny_models_budget_is_met_from_below(name, amount):
    units = units_of(name)
    for _ in range(5):
        plan = plan_from_scores(units, {group.key: torch.rand(group.size) for group in units}, Budget(amount))
        assert 0.99 * amount <= plan.cost["macs_pruned"] / plan.cost["macs_dense"] <= amount


def test_gates_are_one_where_kept():
    plan = Plan.of(HAND, {"a:head": [2, 0], "b:hidden": []})
    assert plan.gates()["a:head"].tolist() == [1, 0, 1]
    assert plan.gates()["b:hidden"].tolist() == [0] * 10


def test_indices_are_sorted_and_plain_integers():
    plan = Plan.of(HAND, {"a:head": torch.tensor([2, 0])})
    assert plan.keep == {"a:head": [0, 2]}
    assert {type(i) for i in plan.keep["a:head"]} == {int}


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"a:heads": [0]}, "Unknown unit group 'a:heads'; did you mean 'a:head'"),
        ({"a:head": [3]}, "'a:head' are not distinct numbers from 0 to 2"),
        ({"a:head": [-1]}, "'a:head' are not distinct numbers from 0 to 2"),
        ({"a:head": [1, 1]}, "'a:head' are not distinct numbers from 0 to 2"),
    ],
)
def test_wrong_indices_are_refused(keep, message):
    with pytest.raises(UsageError, match=message):
        Plan.of(HAND, keep)


def test_the_wrong_model_is_refused():
    plan = Plan.of(HAND, {"a:head": [0]})
    plan.check({"a:head": 3, "b:hidden": 7})  # it does not name b:hidden
    with pytest.raises(UsageError, match="made for 3 units in 'a:head' but the model has 4; apply it to the model it"):
        plan.check({"a:head": 4})


def terms(*amounts: tuple[float, str]) -> tuple[Term, ...]:
    return tuple(Term(macs, 0, tuple(names.split())) for macs, names in amounts)


PAIR = Units(
    (group("a:head", 4), group("a:v", 10)), 140, 0, (3, 8, 8), terms((80, "a:head a:v"), (20, "a:head"))
)  # fmt: skip
"""Of 140 MACs 80 depend on heads and value dimensions, 20 on heads alone, and 40 are fixed."""


def test_a_cost_that_two_groups_share_is_the_product_of_their_shares():
    assert PAIR.cost({"a:head": [0, 1]}) == 40 + 40 + 10
    assert PAIR.cost({"a:v": [0]}) == 40 + 8 + 20
    assert PAIR.cost({"a:head": [0], "a:v": list(range(5))}) == 40 + 80 / 4 / 2 + 5
    assert PAIR.cost({"a:head": [], "a:v": [0]}) == 40


def test_the_price_of_a_unit_follows_what_else_is_kept():
    scores = {"a:head": torch.tensor([9.0, 8, 1, 0]), "a:v": torch.tensor([7.0, 6, 5, 4, 3.5, 3, 2.5, 2, 0.5, 0])}
    plan = plan_from_scores(PAIR, scores, Budget(82))
    assert plan.keep == {"a:head": [0, 1], "a:v": list(range(8))}
    assert plan.cost["macs_pruned"] == 40 + 80 / 2 * 0.8 + 10 == 82


def test_kept_widths_are_multiples_and_the_budget_is_met():
    units = Units((group("a:hidden", 64), group("b:hidden", 64), group("c:head", 3, macs=4)), 200, 200, (3, 8, 8))
    scores = {g.key: torch.rand(g.size) for g in units}
    for amount in (0.5, 0.7, 0.9):
        plan = plan_from_scores(units, scores, Budget(amount, round_to={"hidden": 16}))
        assert all(len(plan.keep[key]) % 16 == 0 and plan.keep[key] for key in ("a:hidden", "b:hidden"))
        assert 200 * amount - 16 < plan.cost["macs_pruned"] <= 200 * amount


def test_a_bundle_is_as_good_as_its_mean():
    units = Units((group("a:hidden", 16), group("b:hidden", 16)), 32, 32, (3, 8, 8))
    scores = {"a:hidden": torch.tensor([9.0] * 8 + [8] + [0] * 7), "b:hidden": torch.tensor([9.0] * 8 + [2] * 8)}
    assert len(plan_from_scores(units, scores, Budget(24)).keep["a:hidden"]) == 9
    rounded = plan_from_scores(units, scores, Budget(24, round_to={"hidden": 8}))
    assert [len(rounded.keep[key]) for key in ("a:hidden", "b:hidden")] == [8, 16]


@pytest.mark.parametrize(("round_to", "message"), [
    ({"hiden": 8}, "Unknown unit kind 'hiden'; did you mean 'hidden'"),
    ({"hidden": 0}, "round_to is 0 for 'hidden'; it must be 1 or more"),
])  # fmt: skip
def test_widths_that_cannot_be_rounded_so(round_to, message):
    with pytest.raises(UsageError, match=message):
        Budget.parse("0.5", round_to)


def test_two_plans_become_one_in_the_first_ones_numbering():
    first = Plan.of(HAND, {"a:head": [0, 2], "b:hidden": []})
    left = Units((group("a:head", 2, macs=10, params=4), group("c:head", 4, macs=1, params=2)), 80, 26, (3, 8, 8))
    second = Plan.of(left, {"a:head": [1], "c:head": [0, 3]}, "second", Budget(0.9))
    both = second.after(first)
    assert both.keep == {"a:head": [2], "b:hidden": [], "c:head": [0, 3]}
    assert both.sizes == {"a:head": 3, "b:hidden": 10, "c:head": 4}
    assert both.cost == {"macs_dense": 100, "macs_pruned": 68, "params_dense": 50, "params_pruned": 18}
    assert (both.method, both.budget) == ("second", {"amount": 0.9, "resource": "macs", "round_to": {}})


def test_a_plan_survives_its_file(tmp_path):
    plan = plan_from_scores(HAND, SCORES, Budget(0.9), "by hand")
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["version"] == 1


def test_a_newer_version_is_refused():
    text = json.dumps({**json.loads(Plan.of(HAND, {}).to_json()), "version": 2, "novelty": 0})
    with pytest.raises(XPrunerError, match="The plan has version 2 but this xpruner reads up to 1; update it"):
        Plan.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"version": 1}', '{"version": 1, "keep": {}, "size": {}}'])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(XPrunerError, match=r"The plan cannot be read .*; write it with Plan\.save"):
        Plan.from_json(text)


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    Plan.of(HAND, {"a:head": [0]}).save(path)

    def half(self, text, **kwargs):
        self.write_bytes(text.encode()[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(XPrunerError, match=r"plan\.json: the disk is full"):
        patch.setattr(Path, "write_text", half)
        Plan.of(HAND, {"a:head": [1]}).save(path)
    assert Plan.load(path).keep == {"a:head": [0]}
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_a_printed_plan_is_a_table_of_what_is_kept():
    plan = Plan.of(HAND, {"a:head": [0, 2], "b:hidden": []})
    assert str(plan).splitlines() == [
        "group     kept  of   share",
        "a:head       2   3  66.7 %",
        "b:hidden     0  10   0.0 %",
        "MACs 100 -> 80 (80.0 %), parameters 50 -> 26 (52.0 %)",  # 100 - 10 - 10, 50 - 4 - 20
    ]
    assert repr(plan) == "Plan(2 groups, 2 of 13 units kept)"


def test_a_printed_plan_without_costs_ends_in_a_count():
    assert str(Plan({"a:head": [1]}, {"a:head": 3})).splitlines()[-1] == "Plan(1 groups, 1 of 3 units kept)"
