"""``xpruner explain maps`` and ``selectivity``; the figures themselves are tested with the library."""

import json
from dataclasses import replace

from xpruner.cli import main
from xpruner.cli.explain import maps, selectivity
from xpruner.explain.map_cards import Inside, MapQuality, MapsCard
from xpruner.explain.selectivity import Selectivity, SelectivityCard, Summary
from xpruner.maps.metrics.agreement import Agreement


def test_maps_of_a_run(finished_folder, tmp_path, capsys):
    """Its pruned model is the dense one, which agrees with itself where it is right."""
    for name, source in {"dense": "dense", "pruned": "dense", "config.yaml": "config.yaml"}.items():
        (tmp_path / name).symlink_to(finished_folder / source)
    asked = ["explain", "maps", str(tmp_path), "--methods", "gradcam", "--methods=rollout,", "--images", "2"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["seed"], list(found["methods"])) == (2, 0, ["gradcam", "rollout"])
    assert round(found["methods"]["rollout"]["agreement"]["pruned"]["spearman"], 6) == 1
    assert main([*asked, "--seed", "5"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Means over 2 images that both models get right" in said and "(seed 5)" in said


def test_maps_and_boxes_of_a_run(finished_folder, tmp_path, capsys):
    """The dense model's own maps are all inside a box around everything."""
    for name, source in {"dense": "dense", "pruned": "dense", "config.yaml": "config.yaml"}.items():
        (tmp_path / name).symlink_to(finished_folder / source)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,left,top,right,bottom\n" + "".join(f"{number},0,0,8,8\n" for number in range(60)))
    asked = ["explain", "maps", str(tmp_path), "--methods", "relevance", "--images", "1", "--boxes", str(boxes)]
    assert main(asked) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "100.0 / 100.0" in said and "The boxes cover 100.0 % of these images." in said


def test_selectivity_of_a_run(finished_folder, capsys):
    asked = ["explain", "selectivity", "--share", "0.3", str(finished_folder), "--kind", "head", "--images", "20"]
    assert main(asked) == 0
    assert "20 images without the 30 % of its head units" in " ".join(capsys.readouterr().out.split())
    assert main([*asked, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["by"]) == ["masks", "Taylor"]


def test_the_text_about_maps():
    alike, chance = Agreement(0.5, 0.25, 0.125), Agreement(0.0625, 0.2, 0.1)
    trust = MapQuality({"dense": 0.75, "pruned": 0.5}, {"dense": 0.25, "pruned": 0.125}, {"pruned": alike}, chance, 2.0)
    table, *_, read = maps.text(MapsCard(6, 4, {"gradcam": trust}))
    assert [next(iter(column.cells)) for column in table.columns] == [
        "gradcam", "0.750 / 0.500", "0.250 / 0.125", "0.500 (0.062)", "0.250 (0.200)", "0.125 (0.100)", "2.00",
    ]  # fmt: skip
    assert read.endswith("(seed 4).")
    boxed = replace(trust, inside={"dense": Inside(0.75, 0.5), "pruned": Inside(0.5, 0.25)})
    table, *_, read = maps.text(MapsCard(6, 4, {"gradcam": boxed}, 0.375))
    assert [next(iter(column.cells)) for column in table.columns][-3:] == ["75.0 / 50.0", "50.0 / 25.0", "2.00"]
    assert read.endswith("The boxes cover 37.5 % of these images.")


def test_the_text_about_selectivity():
    masks, taylor = ([Selectivity(0, own, 10.0), Selectivity(2, 20.0, 0.0)] for own in (60.0, 40.0))
    by = {"masks": Summary.of(masks), "Taylor": Summary(30.0, 0.0, None, taylor)}
    means, classes, read = selectivity.text(SelectivityCard("hidden", 0.1, 50, ["cat", "dog", "owl"], by))
    assert [list(column.cells) for column in means.columns] == [
        ["masks", "Taylor"], ["40.00", "30.00"], ["5.00", "0.00"], ["8.00", "–"],
    ]  # fmt: skip
    assert [list(column.cells) for column in classes.columns] == [
        ["cat", "owl"], ["60.00", "20.00"], ["10.00", "0.00"], ["40.00", "20.00"], ["10.00", "0.00"],
    ]  # fmt: skip
    assert read == (
        "Points of top-1 that the dense model loses on 50 images without the 10 % of its hidden units that a class "
        "marks most."
    )
