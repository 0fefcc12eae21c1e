import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from tiny_models import group

from xpruner.config import DataConfig
from xpruner.errors import UsageError
from xpruner.explain import cards
from xpruner.explain.ablation import Loss, losses_without
from xpruner.explain.audit import Drop
from xpruner.explain.cards import ClassCard, class_card, find_unit, unit_card
from xpruner.run.finished import UNSEEN, FinishedRun, open_run
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


def test_a_unit_card_says_what_is_there_and_what_is_measured(finished):
    key = "blocks.0.mlp:hidden"
    gone = next(i for i in range(96) if i not in finished.plan.keep[key])
    card = unit_card(finished, key, gone, count=40)
    assert card.name == f"{key}:{gone}" and not card.kept
    assert card.importance < card.threshold and "It went: its importance is" in card.why
    names = finished.class_names
    for shown, masks in ((card.serves, finished.dense_masks), (card.decided, finished.masks)):
        assert shown == dict(zip(names, masks[key][:, gone].tolist(), strict=True))
        assert list(shown.values()) == sorted(shown.values(), reverse=True)
    numbers, images = finished.some_images(40)
    labels = torch.cat([truth for _, truth in images])
    assert card.images == {names[label]: int((labels == label).sum()) for label in labels.unique()}
    choices = [{key: [gone]}, {key: card.together.units}]
    alone, together = losses_without(finished.dense, finished.units, choices, images, 10)
    for cost, loss in ((card.alone, alone), (card.together, together)):
        assert cost.nats == pytest.approx({n: loss.nats[int(n)].item() for n in cost.nats}, abs=1e-5)
        assert {n: drop.value for n, drop in cost.top1.items()} == pytest.approx(
            {n: loss.top1[int(n)].item() for n in cost.top1}
        )
    assert card.together.units[0] == gone and len(card.together.units) == 4
    most = card.missed_by[0]
    assert most.value == pytest.approx(alone.change.max().item(), abs=1e-5)
    assert most.number == numbers[alone.change.argmax()]
    assert most.label == finished.class_names[finished.images[most.number][1]]
    assert json.loads(json.dumps(asdict(card), allow_nan=False))["stays_at"] == card.stays_at


def test_what_a_class_loses_is_counted_image_by_image(finished, monkeypatch):
    """A model that names class 0 always and, closed, class 1 always: each 0 is lost, each 1 gained, no other moves."""

    def says_1(model, units, choices, batches, classes, precision):
        (_, labels), *others = batches
        assert not others and len(labels.unique()) == len(labels)
        moved = torch.zeros(classes)
        moved[0], moved[1] = 100.0, -100.0
        return [Loss(moved, moved / 100, labels.float()) for _ in choices]

    monkeypatch.setattr(cards, "losses_without", says_1)
    card = unit_card(finished, "blocks.0.attn:qk", 0, count=40)
    n = card.images
    assert card.alone.top1["0"] == Drop.of(n["0"], 0, n["0"]) and card.alone.top1["1"] == Drop.of(0, n["1"], n["1"])
    assert card.alone.top1["5"] == Drop.of(0, 0, n["5"]) and not card.alone.noise
    assert card.alone.nats["0"] == pytest.approx(1.0) and card.missed_by[0].label == "9"


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
    masks, kept = finished.dense_masks[layer.key].double(), finished.plan.keep[layer.key]
    odds = masks / (1 - masks)
    assert layer.kept == len(kept) and layer.units == 96
    assert layer.share_kept == pytest.approx((odds[3, kept].sum() / odds[3].sum()).item(), rel=1e-3)
    first = layer.carried_by[0]
    assert first.unit == odds[3].argmax() and first.mask == masks[3].max() and first.kept == (first.unit in kept)
    others = [label for label in range(10) if label != 3]
    assert first.times == pytest.approx((odds[3, first.unit] / odds[others, first.unit].mean()).item(), rel=1e-3)


def test_a_class_that_the_masks_have_seen_no_image_of_is_unknown(finished_folder, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_folder, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["search"][UNSEEN] = [3]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    run = open_run(folder)
    assert class_card(run, 3) == ClassCard("3", [], seen=False)
    assert class_card(run, 4).layers and class_card(run, 4).seen
    card = unit_card(run, "blocks.0.attn:head", 0, count=20)
    assert card.serves.keys() == card.decided.keys() == set("012456789")


def test_a_class_card_needs_no_images(finished):
    without = FinishedRun(finished.folder, replace(finished.config, data=DataConfig("nowhere")))
    assert class_card(without, 3) == class_card(finished, 3)
