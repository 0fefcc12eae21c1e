import pytest
import torch
from torch import nn

from xpruner.data import batches
from xpruner.errors import UsageError
from xpruner.explain.selectivity import EVERY, Selectivity, Summary, marked, selectivity, selectivity_card
from xpruner.masks.evidence import class_evidence
from xpruner.units import find_units

HIDDEN = "blocks.1.mlp:hidden"
TABLES = {"a": torch.tensor([[0.9, 0.1], [0.2, 0.3]]), "b": torch.tensor([[0.5, 0.8, 0.0], [0.1, 0.9, 0.7]])}


def test_a_row_marks_its_largest_values_over_all_groups():
    assert marked(TABLES, 0, 0.4) == {"a": [0], "b": [1]}
    assert marked(TABLES, 1, 0.4) == {"b": [1, 2]}
    assert marked(TABLES, 1, 0.01) == {"b": [1]}


@pytest.fixture
def two_units_for_two_classes(tiny_vit) -> nn.Module:
    """Hidden unit 0 of the last block is all that speaks for class 0, unit 1 for class 1; both are always on."""
    with torch.no_grad():
        for parameter in tiny_vit.parameters():
            parameter.zero_()
        tiny_vit.norm.weight.fill_(1.0)
        mlp = tiny_vit.blocks[1].mlp
        mlp.fc1.bias[:2] = 3.0
        mlp.fc2.weight[0, 0], mlp.fc2.weight[1, 1] = 1.0, 1.0
        tiny_vit.head.weight[0, 0], tiny_vit.head.weight[1, 1] = 1.0, 1.0
        tiny_vit.head.bias[2] = 0.5
    return tiny_vit


def test_closing_what_a_class_marks_costs_it_alone(two_units_for_two_classes):
    """Both logits are equal and class 0 is named first: without its unit 0 class 0 is lost, without unit 1 nothing."""
    model, images = two_units_for_two_classes, [(torch.randn(4, 3, 32, 32), torch.tensor([0, 0, 2, 2]))]
    table = torch.full((5, 96), 0.01)
    table[0, 0] = table[2, 1] = 0.9
    found = selectivity(model, find_units(model), {HIDDEN: table}, images, share=1 / 96)
    assert found == [Selectivity(0, 100.0, 0.0), Selectivity(2, 0.0, 0.0)]


def test_a_share_out_of_range_is_refused(tiny_vit):
    with pytest.raises(UsageError, match=r"A share of 1\.5"):
        selectivity(tiny_vit, find_units(tiny_vit), TABLES, [], share=1.5)


def test_a_summary_is_of_means():
    classes = [Selectivity(0, 60.0, 10.0), Selectivity(1, 20.0, 30.0)]
    assert Summary.of(classes) == Summary(40.0, 20.0, 2.0, classes)
    assert Summary.of([Selectivity(0, 60.0, 0.0)]).ratio is None


def test_masks_and_taylor_close_units_of_one_kind_alone(finished):
    """Heads: each class's row of the dense masks, and class evidence per MAC of the calibration images."""
    card = selectivity_card(finished, "head", 0.3, 40)
    assert (card.kind, card.share, card.images, list(card.by)) == ("head", 0.3, 40, ["masks", "Taylor"])
    heads = [group for group in finished.units if group.kind == "head"]
    calibration = list(batches(finished.data.calibration, 128, seed=0, shuffle=False))
    evidence = class_evidence(finished.dense, finished.units, calibration, 10, precision=finished.config.precision)
    _, images = finished.some_images(40)
    for name, table in {
        "masks": {group.key: finished.dense_masks[group.key] for group in heads},
        "Taylor": {group.key: evidence[group.key] / group.macs for group in heads},
    }.items():
        found = selectivity(
            finished.dense, finished.units, table, images, share=0.3, precision=finished.config.precision
        )
        assert card.by[name] == Summary.of(found)


def test_all_images_are_used_by_default(finished):
    assert selectivity_card(finished, "qk", 0.5).images == len(finished.images)


def test_every_kind_can_be_ranked_together(finished):
    together = selectivity_card(finished, EVERY, 0.5).by["masks"]
    tables = {group.key: finished.dense_masks[group.key] for group in finished.units}
    assert {group.kind for group in finished.units} > {"head", "hidden"}
    precision = finished.config.precision
    _, images = finished.some_images(len(finished.images))
    assert together.classes == selectivity(
        finished.dense, finished.units, tables, images, share=0.5, precision=precision
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("hiden",), r"Unknown kind of unit in this run 'hiden'; did you mean 'hidden'"),
        (("head", 1.5), r"share of 1\.5"),
    ],
)
def test_a_card_of_what_is_not_there_is_refused(finished, asked, message):
    with pytest.raises(UsageError, match=message):
        selectivity_card(finished, *asked)
