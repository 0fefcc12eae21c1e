import math

import pytest
import torch
from tiny_models import group

from xpruner.errors import UsageError
from xpruner.explain.cards import class_card, cost_at, find_class, find_unit, thresholds, unit_card
from xpruner.explain.without import losses_without
from xpruner.plan import Plan
from xpruner.units import Units

UNITS = Units((group("a.attn:head", 2, macs=10.0), group("a.mlp:hidden", 4, macs=5.0)), 100.0, 10.0, (3, 8, 8))
IMPORTANCE = {"a.attn:head": torch.tensor([0.2, 3.0]), "a.mlp:hidden": torch.tensor([1.0, 0.1, 2.0, 0.5])}


@pytest.mark.parametrize(
    ("name", "found"),
    [("a.attn:1", ("a.attn:head", 1)), ("a.mlp:3", ("a.mlp:hidden", 3)), ("a.mlp:hidden:0", ("a.mlp:hidden", 0))],
)
def test_a_unit_is_found_by_its_module_and_number(name, found):
    assert find_unit(name, UNITS) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.attn", "'a.attn' names no unit; write its module and number, such as a.attn:0."),
        ("a.atn:1", "Unknown unit group 'a.atn'; did you mean 'a.attn:head'?"),
        ("a.attn:v:1", "Unknown unit group 'a.attn:v'; did you mean 'a.attn:head'?"),
        ("a.attn:2", "a.attn:head has units 0 to 1, and no 2; choose one of them."),
    ],
)
def test_a_unit_that_is_not_there_is_refused(name, message):
    with pytest.raises(UsageError) as caught:
        find_unit(name, UNITS)
    assert str(caught.value) == message


def test_a_class_is_found_by_name_or_number():
    assert find_class("dog", ["cat", "dog"]) == 1
    assert find_class("0", ["cat", "dog"]) == 0
    assert find_class("0", ["9", "0"]) == 1
    with pytest.raises(UsageError, match="Unknown class 'dgo'; did you mean 'dog'"):
        find_class("dgo", ["cat", "dog"])
    with pytest.raises(UsageError, match="Unknown class '2'"):
        find_class("2", ["cat", "dog"])


def test_a_threshold_is_the_least_importance_that_stayed():
    plan = Plan({"a.attn:head": [], "a.mlp:hidden": [0, 2]}, {"a.attn:head": 2, "a.mlp:hidden": 4})
    assert thresholds(IMPORTANCE, plan) == {"a.attn:head": math.inf, "a.mlp:hidden": 1.0}
    assert thresholds(IMPORTANCE, Plan({}, {})) == pytest.approx({"a.attn:head": 0.2, "a.mlp:hidden": 0.1})


def test_the_cost_at_a_level_is_that_of_the_units_above_it():
    """Of 100 MACs, 40 can go: at level 1 the head of 3.0 and the hidden units of 1.0 and 2.0 stay."""
    assert cost_at(IMPORTANCE, UNITS, 1.0) == pytest.approx((60 + 10 + 2 * 5) / 100)
    assert cost_at(IMPORTANCE, UNITS, 0.0) == 1


def test_a_unit_card_says_what_is_there_and_what_is_measured(finished):
    key = "blocks.0.mlp:hidden"
    gone = next(i for i in range(96) if i not in finished.plan.keep[key])
    card = unit_card(finished, key, gone, count=40)
    assert card.name == f"{key}:{gone}" and not card.kept
    assert card.importance < card.threshold and "It went: its importance of" in card.why
    mask = dict(zip(finished.data.class_names, finished.dense_masks[key][:, gone].tolist(), strict=True))
    assert card.serves == mask and list(card.serves.values()) == sorted(mask.values(), reverse=True)
    numbers, images = finished.some_images(40)
    choices = [{key: [gone]}, {key: card.together.units}]
    alone, together = losses_without(finished.dense, finished.units, choices, images, 10)
    assert card.alone.nats == pytest.approx({n: alone.nats[int(n)].item() for n in card.alone.nats})
    assert card.together.nats == pytest.approx({n: together.nats[int(n)].item() for n in card.together.nats})
    assert card.together.units[0] == gone and len(card.together.units) == 4
    most = card.missed_by[0]
    assert most.value == alone.change.max().item() and most.number == numbers[alone.change.argmax()]
    assert most.label == finished.data.class_names[finished.images[most.number][1]]


def test_a_unit_card_of_one_that_stayed_says_why(finished):
    key = "blocks.0.mlp:hidden"
    card = unit_card(finished, key, finished.plan.keep[key][0], count=10)
    assert card.kept and card.importance >= card.threshold and card.why.startswith("It stays")


def test_kinds_without_a_consumer_have_no_stand_ins(finished):
    card = unit_card(finished, "blocks.0.attn:qk", 0, count=10)
    assert card.together.units == [0] and card.driven_by == [] and len(card.missed_by) == 5


def test_a_class_card_lists_every_layer_with_what_the_class_keeps(finished):
    card = class_card(finished, 3)
    assert card.name == "3" and [layer.key for layer in card.layers] == [group.key for group in finished.units]
    layer = next(layer for layer in card.layers if layer.key == "blocks.1.mlp:hidden")
    row, kept = finished.dense_masks[layer.key][3].double(), finished.plan.keep[layer.key]
    odds = row / (1 - row)
    assert layer.kept == len(kept) and layer.units == 96
    assert layer.share_kept == pytest.approx((odds[kept].sum() / odds.sum()).item(), rel=1e-3)
    index, mask, stayed = layer.carried_by[0]
    assert mask == pytest.approx(row.max().item()) and stayed == (index in kept)
