"""``xpruner explain`` on finished runs; the figures themselves are tested with the library."""

import json

import pytest
from PIL import Image

from xpruner.cli import main
from xpruner.cli.explain_text import audit_text, class_text, image_text, unit_text
from xpruner.explain.audit import Audit, ClassAudit, Confusion, Share
from xpruner.explain.cards import ClassCard, Cost, ImageOf, Layer, UnitCard
from xpruner.explain.image import Guess, ImageCard


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "Say what to explain: `xpruner explain unit UNIT`, `xpruner explain class CLASS`, `xpruner explain audit`",
        ),
        (["unit"], "Say what to explain"),
        (["audit", "cat"], "Say what to explain"),
        (["image"], "`xpruner explain image PATH`, with --run"),
        (["clas", "cat"], "Unknown subject 'clas'; did you mean 'class'?"),
        (["audit", "--images", "0"], "--images is 0; it must be 1 or more."),
        (["audit", "--rnu", "x"], "Unknown flag '--rnu'"),
        (["audit", "--run", "nowhere"], "nowhere is no run directory"),
    ],
)
def test_a_wrong_request_gets_one_sentence(words, message, capsys):
    assert main(["explain", *words]) == 2
    assert message in capsys.readouterr().err


def test_cards_and_audit_of_a_run(finished_folder, capsys):
    at = ["--run", str(finished_folder)]
    assert main(["explain", "unit", "blocks.0.attn:1", *at, "--images", "20", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["name"] == "blocks.0.attn:head:1" and card["serves"].keys() == {str(digit) for digit in range(10)}
    assert main(["explain", "class", "7", *at]) == 0
    assert "Class 7, layer by layer." in capsys.readouterr().out
    assert main(["explain", "audit", *at]) == 0
    assert "points lost" in capsys.readouterr().out


def test_an_image_is_explained(finished_folder, tmp_path, capsys):
    picture = tmp_path / "digit.png"
    Image.new("L", (8, 8), 200).save(picture)
    asked = ["explain", "image", str(picture), "--run", str(finished_folder), "--output", str(tmp_path / "out.png")]
    assert main([*asked, "--class", "7", "--method", "gradcam", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["explained"], card["method"], card["picture"]) == ("7", "gradcam", str(tmp_path / "out.png"))
    assert len(card["dense"]) == len(card["pruned"]) == 5
    assert Image.open(card["picture"]).size == (3 * 224 + 2 * 8, 224)
    assert main(asked) == 0
    assert f"What speaks for {card['dense'][0]['name']} (relevance): " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class", "eigt"], "Unknown class 'eigt'"),
        (["--method", "gradkam"], "Unknown explanation method 'gradkam'; did you mean 'gradcam'?"),
        ([], "digit.png cannot be read (its format is unknown); give a PNG or JPEG file."),
    ],
)
def test_an_image_that_cannot_be_explained_gets_one_sentence(finished_folder, tmp_path, capsys, flags, message):
    picture = tmp_path / "digit.png"
    if flags:
        Image.new("L", (8, 8)).save(picture)
    else:
        picture.write_text("no image")
    assert main(["explain", "image", str(picture), "--run", str(finished_folder), *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_text_of_a_unit_card():
    cost = Cost([3], {"cat": 2.5}, {"cat": 0.25})
    both = Cost([3, 7], {"cat": 5.0}, {"cat": 0.5})
    image = ImageOf(12, "cat", 0.125)
    card = UnitCard("m:head:3", {"cat": 0.9, "dog": 0.1}, 1.0, 2.0, False, 0.6, "It went.", cost, both, [], [image])
    first, table, near, driven, missed = unit_text(card)
    assert first == "m:head:3. It went."
    assert [list(column.cells) for column in table.columns] == [
        ["cat", "dog"], ["0.900", "0.100"], ["2.500", "–"], ["5.000", "–"], ["0.250", "–"], ["0.500", "–"],
    ]  # fmt: skip
    assert near.endswith("most about it: 7.")
    assert driven == "Images that drive it most: not known for this kind of unit."
    assert missed == "Images whose prediction changes most without it: 12 (cat, 0.125)."


def test_the_text_of_a_class_card():
    card = ClassCard("cat", [Layer("m:head", 3, 2, 0.875, [(1, 0.5, True), (0, 0.25, False)])])
    first, table = class_text(card)
    assert first == "Class cat, layer by layer."
    assert [next(iter(column.cells)) for column in table.columns] == [
        "m:head",
        "2 of 3",
        "87.5",
        "1 (0.50), 0 (0.25, –)",
    ]


def test_the_text_of_an_image_card():
    dense, pruned = [Guess("cat", 0.75), Guess("dog", 0.125)], [Guess("dog", 0.5), Guess("cat", 0.25)]
    table, maps, picture = image_text(ImageCard("a.png", dense, pruned, "cat", "rollout", 0.25, "b.png"))
    assert [list(column.cells) for column in table.columns] == [
        ["cat", "dog"], ["75.00", "12.50"], ["dog", "cat"], ["50.00", "25.00"],
    ]  # fmt: skip
    assert maps == "What speaks for cat (rollout): the maps' rank correlation is 0.250."
    assert picture.endswith("are side by side in b.png.")


def test_the_text_of_an_audit():
    row = ClassAudit("cat", 4, Share(0.75, 0.3, 0.95), Share(0.5, 0.15, 0.85), [1, 2], [3], 1.0)
    table, worst, rising = audit_text(Audit([row], [Confusion("cat", "owl", 0, 2)]))
    assert [next(iter(column.cells)) for column in table.columns] == [
        "cat", "4", "75.00", "50.00", "15.0–85.0", "25.00", "2", "1", "1.000",
    ]  # fmt: skip
    assert worst == "cat pays most, with 25.00 points."
    assert rising == "Confusions that rose most: cat taken for owl (0 to 2)."


def test_no_class_pays_where_none_lost():
    row = ClassAudit("cat", 4, Share(0.5, 0.15, 0.85), Share(0.5, 0.15, 0.85), [], [], 1.0)
    assert audit_text(Audit([row], []))[1:] == ["No class pays.", "Confusions that rose most: none."]
