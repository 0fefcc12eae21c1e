import json
from dataclasses import asdict

import pytest
import torch
from tiny_models import group

from xpruner.errors import UsageError
from xpruner.explain import unit_cards
from xpruner.explain.ablation import AblationEffect, ablation_effects
from xpruner.explain.audit import Drop
from xpruner.explain.unit_cards import find_unit, unit_card
from xpruner.units import Units

UNITS = Units((group("a.attn:head", 2, macs=10.0), group("a.mlp:hidden", 4, macs=5.0)), 100.0, 10.0, (3, 8, 8))


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


def test_a_unit_card_holds_what_is_stored_and_what_is_measured(finished):
    key = "blocks.0.mlp:hidden"
    pruned = next(i for i in range(96) if i not in finished.plan.keep[key])
    card = unit_card(finished, key, pruned, count=40)
    assert card.name == f"{key}:{pruned}" and not card.kept
    assert card.importance < card.lowest_kept and card.why.startswith("Pruned: importance ")
    names = finished.class_names
    for shown, masks in ((card.serves, finished.dense_masks), (card.decided, finished.masks)):
        assert shown == dict(zip(names, masks[key][:, pruned].tolist(), strict=True))
        assert list(shown.values()) == sorted(shown.values(), reverse=True)
    numbers, images = finished.some_images(40)
    labels = torch.cat([truth for _, truth in images])
    assert card.images == {names[label]: int((labels == label).sum()) for label in labels.unique()}
    choices = [{key: [pruned]}, {key: card.together.units}]
    alone, together = ablation_effects(finished.dense, finished.units, choices, images, 10)
    for cost, effect in ((card.alone, alone), (card.together, together)):
        assert cost.loss == pytest.approx({n: effect.loss[int(n)].item() for n in cost.loss}, abs=1e-5)
        assert {n: drop.value for n, drop in cost.top1.items()} == pytest.approx(
            {n: effect.top1[int(n)].item() for n in cost.top1}
        )
    assert card.together.units[0] == pruned and len(card.together.units) == 4
    most = card.missed_by[0]
    assert most.value == pytest.approx(alone.change.max().item(), abs=1e-5)
    assert most.number == numbers[alone.change.argmax()]
    assert most.label == finished.class_names[finished.images[most.number][1]]
    assert json.loads(json.dumps(asdict(card), allow_nan=False))["kept_at"] == card.kept_at


def test_what_a_class_loses_is_counted_image_by_image(finished, monkeypatch):
    """A model predicts class 0 always and, ablated, class 1 always: each 0 is lost, each 1 gained, no other moves."""

    def predicts_1(model, units, choices, batches, classes, precision):
        (_, labels), *others = batches
        assert not others and len(labels.unique()) == len(labels)
        moved = torch.zeros(classes)
        moved[0], moved[1] = 100.0, -100.0
        return [AblationEffect(moved, moved / 100, labels.float()) for _ in choices]

    monkeypatch.setattr(unit_cards, "ablation_effects", predicts_1)
    card = unit_card(finished, "blocks.0.attn:qk", 0, count=40)
    n = card.images
    assert card.alone.top1["0"] == Drop.of(n["0"], 0, n["0"]) and card.alone.top1["1"] == Drop.of(0, n["1"], n["1"])
    assert card.alone.top1["5"] == Drop.of(0, 0, n["5"]) and not card.alone.noise
    assert card.alone.loss["0"] == pytest.approx(1.0) and card.missed_by[0].label == "9"


def test_the_card_of_a_kept_unit_gives_the_reason(finished):
    key = "blocks.0.mlp:hidden"
    card = unit_card(finished, key, finished.plan.keep[key][0], count=10)
    assert card.kept and card.importance >= card.lowest_kept and card.why.startswith("Kept: importance ")


def test_kinds_without_a_consumer_have_no_redundant_units(finished):
    card = unit_card(finished, "blocks.0.attn:qk", 0, count=10)
    assert card.together.units == [0] and card.activated_by == [] and len(card.missed_by) == 5


def test_a_unit_card_leaves_out_classes_that_the_masks_have_seen_no_image_of(run_without_3):
    card = unit_card(run_without_3, "blocks.0.attn:head", 0, count=20)
    assert card.serves.keys() == card.decided.keys() == set("012456789")
