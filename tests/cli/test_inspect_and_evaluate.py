"""``xpruner inspect`` and ``xpruner evaluate`` on models small enough to count by hand."""

import json
import shutil

import pytest
from cli_process import one_line

from xpruner.cli import main
from xpruner.cli.console import show
from xpruner.cli.inspect import describe
from xpruner.cli.tables import units_table
from xpruner.units import Gate, UnitGroup, Units

VIT = [
    *("--model", "vit_tiny_patch16_224", "--model.img_size", "16", "--model.num_classes", "5"),
    *("--model.kwargs.patch_size", "8", "--model.kwargs.embed_dim", "24"),
    *("--model.kwargs.depth", "1", "--model.kwargs.num_heads", "3"),
]


def test_inspect_counts_what_can_be_counted_by_hand(capsys):
    """4 patches and a class token make 5 tokens of 24 channels; a head has 8 of them, the MLP 96 hidden units."""
    assert main(["inspect", *VIT, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    contents = json.loads(out)
    head_macs = 5 * (4 * 8 * 24 + 2 * 5 * 8)
    hidden_macs = 5 * 2 * 24
    total = 4 * 3 * 64 * 24 + 3 * head_macs + 96 * hidden_macs + 24 * 5
    assert contents["input_size"] == [3, 16, 16]
    assert contents["groups"] == [
        {
            "key": "blocks.0.attn:head",
            "kind": "head",
            "units": 3,
            "width": 8,
            "macs_per_unit": head_macs,
            "macs": 3 * head_macs,
            "share": pytest.approx(3 * head_macs / total),
            "params": 3 * (3 * 8 * 25 + 8 * 24),
        },
        {
            "key": "blocks.0.mlp:hidden",
            "kind": "hidden",
            "units": 96,
            "width": 1,
            "macs_per_unit": hidden_macs,
            "macs": 96 * hidden_macs,
            "share": pytest.approx(96 * hidden_macs / total),
            "params": 96 * (25 + 24),
        },
    ]
    assert contents["prunable"] == {"macs": 35760, "params": 7080}
    assert contents["total"] == {"macs": total, "params": 12173}


def test_the_table_of_units_ends_with_the_totals(capsys):
    groups = (
        UnitGroup("blocks.0.attn:head", "head", "blocks.0.attn", 3, (Gate("blocks.0.attn.proj", inner=8),), 1e6, 2000),
        UnitGroup("blocks.0.mlp:hidden", "hidden", "blocks.0.mlp", 10, (Gate("blocks.0.mlp.fc2"),), 2e5, 100),
    )
    show(units_table(describe(Units(groups, 8e6, 14000, (3, 16, 16)))))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[2] == ["blocks.0.attn:head", "head", "3", "8", "1,000,000", "3.000", "37.5", "0.006"]
    assert rows[3] == ["blocks.0.mlp:hidden", "hidden", "10", "1", "200,000", "2.000", "25.0", "0.001"]
    assert rows[-2:] == [["prunable", "5.000", "62.5", "0.007"], ["total", "8.000", "100.0", "0.014"]]


def test_an_unknown_model_is_answered_with_the_nearest(capsys):
    assert main(["inspect", "--model.name", "deit_tny_patch16_224"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert one_line(err).startswith("xpruner: error: ")
    assert one_line(err).endswith("'deit_tny_patch16_224'; did you mean 'deit_tiny_patch16_224'?")


def test_evaluate_measures_a_saved_model_on_a_folder_of_images(says_dark, images, capsys):
    """Every image is taken for a dark one, and so are 3 of the 4 test images."""
    assert main(["evaluate", "--model", str(says_dark), "--data", str(images), "--latency", "[2]", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    milliseconds, found = figures.pop("latency"), figures.pop("data")
    assert (found["classes"], found["images"]) == (["dark", "light"], {"training": 16, "test": 4})
    assert figures == {
        "model": str(says_dark),
        "images": 4,
        "precision": "fp32",
        "top1": 0.75,
        "macs": 4 * 3 * 64 * 24 + 35760 + 24 * 2,
        "params": 12173 - 3 * 25,
    }
    assert list(milliseconds) == ["2"]
    assert milliseconds["2"] > 0


def test_inspect_shows_what_was_found_of_images(says_dark, images, tmp_path, capsys):
    images = shutil.copytree(images, tmp_path / "images")
    (images / "train" / "dark" / "notes.txt").write_text("no image")
    asked = ["inspect", "--model", str(says_dark), "--data", str(images)]
    assert main(asked) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["dark", "0", "8", "3"] in rows and ["light", "1", "8", "1"] in rows
    assert ["all", "classes", "16", "4"] in rows
    assert [".png", "20"] in rows and [".txt", "1"] in rows
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["data"]
    assert found["images_a_class"] == {"training": [8, 8], "test": [3, 1]}
    assert found["left_out"] == {".txt": 1}


def test_evaluate_prints_a_table(says_dark, images, capsys):
    assert main(["evaluate", "--model", str(says_dark), "--data", str(images), "--batch_size", "1"]) == 0
    title, _, row = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert " ".join(title) == "model images top-1 % MACs (M) parameters (M)"
    assert row == [str(says_dark), "4", "75.00", "0.054", "0.012"]
