"""Cards of classes, against the masks and the plan of a finished run."""

from dataclasses import replace

import pytest

from xpruner.config import DataConfig
from xpruner.explain.class_cards import ClassCard, class_card
from xpruner.run.finished import FinishedRun


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


def test_a_class_that_the_masks_have_seen_no_image_of_is_unknown(run_without_3):
    assert class_card(run_without_3, 3) == ClassCard("3", [], seen=False)
    assert class_card(run_without_3, 4).layers and class_card(run_without_3, 4).seen


def test_a_class_card_needs_no_images(finished):
    without = FinishedRun(finished.folder, replace(finished.config, data=DataConfig("nowhere")))
    assert class_card(without, 3) == class_card(finished, 3)
