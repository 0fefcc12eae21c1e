"""What is printed of cards, of the class audit and of the guard."""

from dataclasses import replace

import pytest
import torch
from rich.table import Table

from xpruner.cli.explain_text import audit_text, class_text, image_text, unit_text
from xpruner.cli.tables import guard_text
from xpruner.explain.audit import Audit, Drop, audit
from xpruner.explain.class_cards import Carrier, ClassCard, Layer
from xpruner.explain.image_cards import ImageCard
from xpruner.explain.map_pair import Likeness
from xpruner.explain.predictions import Guess
from xpruner.explain.unit_cards import Cost, ImageOf, UnitCard
from xpruner.methods.xpruner.guard import GuardFigures

GUARD = GuardFigures(
    limit=2.0, largest=1.5, drops=[1.5, None, 0.25], weights=[2.0, 0.5, 0.5], images=400, price=0.125,
    largest_without=3.0, budget=0.5, budget_without=0.55,
)  # fmt: skip


def rows_of(table: Table | str) -> list[list]:
    assert isinstance(table, Table)
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


@pytest.fixture
def unit() -> UnitCard:
    alone = Cost([3], {"cat": Drop(2.5, 0.25, 4.75)}, {"cat": 0.25}, noise=False)
    both = Cost([3, 7], {"cat": Drop(5.0, -1.0, 11.0)}, {"cat": 0.5}, noise=True)
    return UnitCard(
        name="m:head:3", serves={"cat": 0.9, "dog": 0.1}, decided={"dog": 0.2, "cat": 0.3}, images={"cat": 40},
        importance=1.0, threshold=None, kept=False, stays_at=None, why="It went.", alone=alone, together=both,
        driven_by=[], missed_by=[ImageOf(12, "cat", 0.125)],
    )  # fmt: skip


def test_the_text_of_a_unit_card(unit):
    first, table, masks, noise, near, driven, missed = unit_text(unit)
    assert first == "m:head:3. It went."
    assert [column.header for column in table.columns][:4] == ["class", "mask", "decided", "images"]
    assert rows_of(table) == [
        ["cat", "0.900", "0.300", "40", "2.5 (0.2 to 4.8)", "5.0 (-1.0 to 11.0)", "0.25", "0.50"],
        ["dog", "0.100", "0.200", "0", "–", "–", "–", "–"],
    ]
    assert masks.startswith("The mask speaks of the trained network; the one that decided,")
    assert noise.startswith("Closed with its stand-ins it costs no class more than chance explains")
    assert near.endswith("most about it: 7.")
    assert driven == "Images that drive it most: not known for this kind of unit."
    assert missed == "Images whose prediction changes most without it: 12 (cat, 0.125)."


def test_noise_is_spoken_of_where_it_is_noise(unit):
    noisy, clear = replace(unit.alone, noise=True), replace(unit.together, noise=False)
    assert unit_text(replace(unit, alone=noisy))[3].startswith("Closed alone and with its stand-ins it costs no class")
    assert len(unit_text(replace(unit, together=clear))) == len(unit_text(unit)) - 1


def test_the_text_of_a_class_card():
    carriers = [Carrier(1, 0.5, 3.25, True), Carrier(0, 0.25, 2345.0, False)]
    first, table = class_text(ClassCard("cat", [Layer("m:head", 3, 2, 0.875, carriers)]))
    assert first.startswith("Class cat, layer by layer. Carried by:")
    assert rows_of(table) == [["m:head", "2 of 3", "87.5", "1 (3.2×), 0 (2,345×, cut)"]]


def test_of_a_class_that_no_image_was_seen_of_the_card_says_that_nothing_is_known():
    (text,) = class_text(ClassCard("owl", [], seen=False))
    assert text.startswith("Nothing is known of class owl: the masks of this run have seen no image of it;")


def test_the_text_of_an_audit():
    """Of four cats, images 0 to 3, two are lost and one is gained; the dog stays right."""
    labels = torch.tensor([0, 0, 0, 0, 1])
    found = audit(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 2, 2, 0, 1]), labels, ["cat", "dog", "owl"])
    table, worst, lost, rising, without = audit_text(found)
    assert [column.header for column in table.columns][4] == "pruned, 95 % interval"
    cat, dog, everything = rows_of(table)
    assert cat == ["cat", "4", "75.00", "50.00", "15.0–85.0", "25.00", "2", "1", "1.000"]
    assert dog[:4] == ["dog", "1", "100.00", "100.00"]
    assert everything[:4] == ["all classes", "5", "80.00", "60.00"] and everything[5:] == ["20.00", "2", "1", "1.000"]
    assert worst == "cat pays most, with 25.00 points."
    assert lost == "Numbers of the images that were lost: cat 1, 2."
    assert rising == "Confusions that rose most: cat taken for owl (0 to 2)."
    assert without == "Nothing is known of classes without an image here: owl."
    assert audit_text(replace(found, guard=GUARD))[5:6] == guard_text(GUARD, found.class_names)[:1]


def test_of_many_lost_images_the_first_are_named():
    labels = torch.zeros(12, dtype=torch.long)
    found = audit(labels, labels + 1, labels, ["cat", "dog"])
    assert audit_text(found)[2] == "Numbers of the images that were lost: cat 0, 1, 2, 3, 4, 5, 6, 7 and 4 more."


def test_no_class_pays_where_none_lost():
    said = torch.tensor([0, 1])
    found: Audit = audit(said, said, said, ["cat", "dog"])
    assert audit_text(found)[1:] == [
        "No class pays.", "Numbers of the images that were lost: none.", "Confusions that rose most: none.",
    ]  # fmt: skip


def test_the_text_of_a_guard():
    held, price, table = guard_text(GUARD, ["cat", "dog", "owl"])
    assert held == (
        "The guard held: before training no class loses more than 2 points on 400 training images; cat loses most, "
        "1.50."
    )
    assert price == (
        "It costs 0.12 points of top-1 over all these images, beside the plan without it at the same budget, 0.50, "
        "under which a class loses 3.00; among plans without multipliers, the least budget tried that has one that "
        "does is 0.55 of the dense model's cost."
    )
    assert rows_of(table) == [["cat", "1.50", "2.00"], ["owl", "0.25", "0.50"]]


def test_a_guard_that_had_nothing_to_do_cost_nothing():
    idle = replace(GUARD, weights=[1.0, 1.0, 1.0], price=0.0, budget_without=None)
    assert guard_text(idle, ["cat", "dog", "owl"])[1] == "The plan held as it was, and the guard cost nothing."


def test_a_guard_that_gains_and_no_other_budget_that_holds():
    said = guard_text(replace(GUARD, price=-0.5, budget_without=None), ["cat", "dog", "owl"])[1]
    assert said.startswith("It gains 0.50 points of top-1")
    assert said.endswith("among plans without multipliers, none of the larger budgets tried has one that does.")


def test_the_text_of_an_image_card():
    dense, pruned = [Guess("cat", 0.75), Guess("dog", 0.125)], [Guess("dog", 0.5), Guess("cat", 0.25)]
    alike, floor = Likeness(0.25, 0.5), Likeness(-0.125, 0.1)
    card = ImageCard("a.png", dense, pruned, "cat", "gradcam", alike, floor, "b.png")
    table, maps, picture = image_text(card)
    assert [list(column.cells) for column in table.columns] == [
        ["cat", "dog"], ["75.00", "12.50"], ["dog", "cat"], ["50.00", "25.00"],
    ]  # fmt: skip
    assert maps == "What speaks for cat (gradcam): the maps' rank correlation is 0.250 (by chance -0.125)."
    assert picture.endswith("are side by side in b.png.")
