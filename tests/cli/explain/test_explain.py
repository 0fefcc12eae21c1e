"""``xpruner explain`` on finished runs; figures are tested with the library, texts in the files beside this one."""

import json

import pytest
from PIL import Image

from xpruner.cli import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "Name what to explain: `xpruner explain unit UNIT`, `xpruner explain class CLASS`, `xpruner explain audit`",
        ),
        (["unit"], "Name what to explain"),
        (["audit", "nowhere"], "nowhere is no run directory"),
        (
            ["audit", "here", "there"],
            "'there' is a word too many; `xpruner explain audit --help` shows what is expected",
        ),
        (["audit", "here", "--run", "there"], "The run is given twice, as 'here' and by --run; leave one of them out."),
        (["image"], "`xpruner explain image IMAGE`, `xpruner explain maps`, `xpruner explain selectivity`, with --run"),
        (["clas", "cat"], "Unknown subject 'clas'; did you mean 'class'?"),
        (["unit", "a:1", "--images", "0"], "--images is 0; it must be 1 or more."),
        (["maps", "--images=-1"], "--images is -1; it must be 1 or more."),
        (["maps", "--methods", ""], "--methods is empty; name one or more"),
        (["maps", "--run"], "--run stands without a value; give one after it."),
        (["class", "3", "--method", "nonsense"], "`xpruner explain class` has no --method, which is of image;"),
        (["class", "3", "--images", "3"], "has no --images, which is of unit and maps and selectivity; leave it out."),
        (["audit", "--class", "3"], "`xpruner explain audit` has no --class_name, which is of image; leave it out."),
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
    assert "Class 7, layer by layer" in capsys.readouterr().out
    assert main(["explain", "audit", *at]) == 0
    assert "points lost" in capsys.readouterr().out


def test_the_run_may_be_the_last_word(finished_folder, capsys):
    assert main(["explain", "class", "--json", "7", str(finished_folder)]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "7"
    assert main(["explain", "audit", str(finished_folder), "--json"]) == 0
    assert "classes" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_subjects(capsys, flag):
    assert main(["explain", flag]) == 0
    said = capsys.readouterr().out
    assert [
        way for way in ("unit UNIT ", "class CLASS ", "image IMAGE ", "selectivity ") if f"\n  {way}" not in said
    ] == []


@pytest.mark.parametrize(
    ("words", "has", "has_not"),
    [(["unit"], "--images IMAGES", "--method"), (["unit", "a:1"], "UNIT [RUN]", "--share"),
     (["maps"], "--methods", "--class_name"), (["image"], "also written\n", "--images")],
)  # fmt: skip
def test_help_of_a_subject_has_its_flags_alone(capsys, words, has, has_not):
    with pytest.raises(SystemExit) as left:
        main(["explain", *words, "--help"])
    said = capsys.readouterr().out
    assert left.value.code == 0 and has in said and has_not not in said


def test_an_image_of_the_run_is_explained_by_its_number(finished_folder, tmp_path, capsys):
    asked = [
        "explain",
        "image",
        "3",
        str(finished_folder),
        "--output",
        str(tmp_path / "out.png"),
        "--method",
        "rollout",
    ]
    assert main([*asked, "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["image"], card["explained"]) == ("3", "any class") and card["truth"] in "0123456789"
    assert main([*asked, "--class", "7"]) == 0
    assert "Evidence for any class (rollout): " in capsys.readouterr().out
    assert main(["explain", "image", "99999", str(finished_folder)]) == 2
    assert "There is no image 99999; those of the run are 0 to " in capsys.readouterr().err


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
    assert f"Evidence for {card['dense'][0]['name']} (relevance): " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--class", "eigt"], "Unknown class 'eigt'"),
        (["--method", "gradkam"], "Unknown explanation method 'gradkam'; did you mean 'gradcam'?"),
        ([], "digit.png cannot be read (its format is unknown); give a PNG, JPEG, WEBP, BMP, TIFF, GIF or PPM file."),
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
