"""What is printed of cards and of the class audit."""

from dataclasses import replace

import pytest
import torch
from rich.table import Table

from xpruner.cli.explain import audit, class_, image, unit
from xpruner.cli.tables import guard_text
from xpruner.explain.audit import Audit, Drop
from xpruner.explain.audit import audit as audited
from xpruner.explain.class_cards import Carrier, ClassCard, Layer
from xpruner.explain.image_cards import ImageCard
from xpruner.explain.map_pair import MapSimilarity
from xpruner.explain.predictions import Prediction
from xpruner.explain.unit_cards import AblationCost, RankedImage, UnitCard
from xpruner.methods.xpruner.guard import GuardFigures

GUARD = GuardFigures(
    limit=2.0, largest=1.5, drops=[1.5, None, 0.25], weights=[2.0, 0.5, 0.5], images=400, price=0.125,
    largest_without=3.0, budget=0.5, budget_without=0.55,
)  # fmt: skip


def rows_of(table: Table | str) -> list[list]:
    assert isinstance(table, Table)
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


@pytest.fixture
def card() -> UnitCard:
    alone = AblationCost([3], {"cat": Drop(2.5, 0.25, 4.75)}, {"cat": 0.25}, noise=False)
    both = AblationCost([3, 7], {"cat": Drop(5.0, -1.0, 11.0)}, {"cat": 0.5}, noise=True)
    return UnitCard(
        name="m:head:3", serves={"cat": 0.9, "dog": 0.1}, decided={"dog": 0.2, "cat": 0.3}, images={"cat": 40},
        importance=1.0, lowest_kept=None, kept=False, kept_at=None, why="Pruned.", alone=alone, together=both,
        activated_by=[], missed_by=[RankedImage(12, "cat", 0.125)],
    )  # fmt: skip


def test_the_text_of_a_unit_card(card):
    first, table, masks, noise, near, active, missed = unit.text(card)
    assert first == "m:head:3. Pruned."
    assert [column.header for column in table.columns][:6] == [
        "class", "mask", "deciding mask", "images", "points lost", "with its most redundant unit"
    ]  # fmt: skip
    assert rows_of(table) == [
        ["cat", "0.900", "0.300", "40", "2.5 (0.2 to 4.8)", "5.0 (-1.0 to 11.0)", "0.25", "0.50"],
        ["dog", "0.100", "0.200", "0", "–", "–", "–", "–"],
    ]
    assert masks.startswith("The mask is that of the dense model. The deciding mask,")
    assert noise.startswith("Ablated with its most redundant unit, it costs no class more than chance explains")
    assert near == "Its most redundant units, those of its layer that explain most of its variance linearly: 7."
    assert active == "Images that activate it most: not known for this kind of unit."
    assert missed == "Images whose prediction changes most when it is ablated: 12 (cat, 0.125)."


def test_noise_is_named_where_it_is_noise(card):
    noisy, clear = replace(card.alone, noise=True), replace(card.together, noise=False)
    sentence = unit.text(replace(card, alone=noisy))[3]
    assert sentence.startswith("Ablated alone and with its most redundant unit, it costs no class")
    near = replace(card.together, units=[3, 7, 1, 4])
    assert [column.header for column in unit.text(replace(card, together=near))[1].columns][7] == (
        "with its 3 most redundant units"
    )
    assert len(unit.text(replace(card, together=clear))) == len(unit.text(card)) - 1


def test_the_text_of_a_class_card():
    carriers = [Carrier(1, 0.5, 3.25, True), Carrier(0, 0.25, 2345.0, False)]
    first, table = class_.text(ClassCard("cat", [Layer("m:head", 3, 2, 0.875, carriers)]))
    assert first.startswith("Class cat, layer by layer. Carried by:")
    assert rows_of(table) == [["m:head", "2 of 3", "87.5", "1 (3.2×), 0 (2,345×, pruned)"]]


def test_of_a_class_without_a_seen_image_nothing_is_known():
    (text,) = class_.text(ClassCard("owl", [], seen=False))
    assert text.startswith("Nothing is known of class owl: the masks of this run have seen no image of it;")


def test_the_text_of_an_audit():
    """Of four cats, images 0 to 3, two are lost and one is gained; the dog stays right."""
    labels = torch.tensor([0, 0, 0, 0, 1])
    found = audited(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 2, 2, 0, 1]), labels, ["cat", "dog", "owl"])
    table, worst, lost, rising, without = audit.text(found)
    assert [column.header for column in table.columns][4] == "pruned, 95 % interval"
    cat, dog, everything = rows_of(table)
    assert cat == ["cat", "4", "75.00", "50.00", "15.0–85.0", "25.00", "2", "1", "1.000"]
    assert dog[:4] == ["dog", "1", "100.00", "100.00"]
    assert everything[:4] == ["all classes", "5", "80.00", "60.00"] and everything[5:] == ["20.00", "2", "1", "1.000"]
    assert worst == "cat pays most, with 25.00 points."
    assert lost == "Numbers of the images that were lost: cat 1, 2."
    assert rising == "Confusions that rose most: cat taken for owl (0 to 2)."
    assert without == "Nothing is known of classes without an image here: owl."
    assert audit.text(replace(found, guard=GUARD))[5:6] == guard_text(GUARD, found.class_names)[:1]


def test_of_many_lost_images_the_first_are_named():
    labels = torch.zeros(12, dtype=torch.long)
    found = audited(labels, labels + 1, labels, ["cat", "dog"])
    assert audit.text(found)[2] == "Numbers of the images that were lost: cat 0, 1, 2, 3, 4, 5, 6, 7 and 4 more."


def test_no_class_pays_where_none_lost():
    said = torch.tensor([0, 1])
    found: Audit = audited(said, said, said, ["cat", "dog"])
    assert audit.text(found)[1:] == [
        "No class pays.", "Numbers of the images that were lost: none.", "Confusions that rose most: none.",
    ]  # fmt: skip


def test_the_text_of_an_image_card():
    dense, pruned = (
        [Prediction("cat", 0.75), Prediction("dog", 0.125)],
        [Prediction("dog", 0.5), Prediction("cat", 0.25)],
    )
    similarity, chance = MapSimilarity(0.25, 0.5), MapSimilarity(-0.125, 0.1)
    card = ImageCard("a.png", dense, pruned, "cat", "gradcam", similarity, chance, "b.png")
    table, maps, picture = image.text(card)
    assert [list(column.cells) for column in table.columns] == [
        ["cat", "dog"], ["75.00", "12.50"], ["dog", "cat"], ["50.00", "25.00"],
    ]  # fmt: skip
    assert maps == "Evidence for cat (gradcam): the maps' rank correlation is 0.250 (chance level -0.125)."
    assert picture.endswith("are side by side in b.png.")
