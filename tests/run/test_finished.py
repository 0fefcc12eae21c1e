import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from xpruner.config import DataConfig, RunConfig, ThresholdConfig
from xpruner.data.class_names import unique_names
from xpruner.errors import UsageError, XPrunerError
from xpruner.methods.xpruner.guard import GuardFigures
from xpruner.run.finished import FinishedRun, open_run, remember_data


def test_a_run_is_opened_as_it_was_made(finished, finished_folder):
    assert finished.config.data.calibration_size == 64
    assert finished.config.output == str(finished_folder)
    assert {group.kind for group in finished.units} == {"head", "hidden", "qk"}
    assert finished.masks.keys() == load_file(finished_folder / "masks.safetensors").keys()
    dense = load_file(finished_folder / "masks_dense.safetensors")
    assert all(torch.equal(finished.dense_masks[key], dense[key]) for key in finished.masks)
    assert len(finished.images) == 60


def test_some_images_are_spread_evenly_and_keep_their_numbers(finished):
    numbers, images = finished.some_images(3)
    assert numbers == [0, 29, 59]
    ((batch, labels),) = images
    assert torch.equal(batch[1], finished.images[29][0]) and labels[1] == finished.images[29][1]
    assert finished.some_images(1000)[0] == list(range(60))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no run directory; give the --output"):
        open_run(tmp_path)


def test_an_unfinished_run_is_refused(finished_folder, tmp_path):
    (tmp_path / "config.yaml").write_text((finished_folder / "config.yaml").read_text())
    with pytest.raises(UsageError, match="not finished; the same `xpruner prune` command finishes it"):
        open_run(tmp_path)


@pytest.mark.parametrize("text", ["model: [", "speed: 3", "just words"])
def test_a_damaged_configuration_is_named(finished_folder, tmp_path, text):
    (tmp_path / "pruned").symlink_to(finished_folder / "pruned")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(XPrunerError, match=r"config\.yaml cannot be read"):
        open_run(tmp_path)


def test_a_run_of_a_method_without_masks_says_what_makes_them(copied):
    (copied / "masks.safetensors").unlink()
    run = open_run(copied)
    with pytest.raises(
        UsageError, match=r"has no masks, as its method 'wanda' learns none; `xpruner prune --method xpr"
    ):
        _ = FinishedRun(copied, replace(run.config, method="wanda")).masks


@pytest.fixture
def copied(finished_folder, tmp_path) -> Path:
    """The finished run in a folder of its own, of which files can be replaced."""
    for name in ("dense", "pruned", "plan.json", "masks.safetensors", "masks_dense.safetensors", "config.yaml"):
        (tmp_path / name).symlink_to(finished_folder / name)
    return tmp_path


def with_masks(folder: Path, **changes) -> FinishedRun:
    """Returns the run with the masks 0.5 and 0.8 of one unit, and 0.8 and 0.5 of another, for two classes."""
    run = open_run(folder)
    run = FinishedRun(run.folder, replace(run.config, **changes))
    run.__dict__["masks"] = {"m:hidden": torch.tensor([[0.5, 0.8], [0.8, 0.5]])}
    return run


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        (ThresholdConfig(importance="mean"), [0.65, 0.65]),
        (ThresholdConfig(importance="odds"), [2.5, 2.5]),
        (ThresholdConfig(mode="global_rank", importance="odds"), [1.3, 1.3]),
    ],
)
def test_importance_is_what_the_plan_read(copied, thresholds, expected):
    run = with_masks(copied, thresholds=thresholds)
    assert run.importance["m:hidden"].tolist() == pytest.approx(expected)


def guard_figures(weights: list[float]) -> GuardFigures:
    return GuardFigures(2.0, 1.5, [1.5, None], weights, 40, 0.25, 3.0, 0.5, 0.55)


def test_importance_is_weighed_as_the_guard_did(copied):
    """Odds of 1 and 4: with three times the weight on class 0 the units are worth (1.5 + 2) / 2 and (6 + 0.5) / 2."""
    assert with_masks(copied).guard is None
    run = with_masks(copied)
    run.__dict__["guard"] = guard_figures([1.5, 0.5])
    assert run.importance["m:hidden"].tolist() == pytest.approx([1.75, 3.25])
    assert run.importance_to([0])["m:hidden"].tolist() == pytest.approx([1.0, 4.0])


def test_a_guard_that_had_nothing_to_do_leaves_the_importance_as_it_is(copied):
    run = with_masks(copied, thresholds=ThresholdConfig(importance="max"))
    run.__dict__["guard"] = guard_figures([1.0, 1.0])
    assert run.importance["m:hidden"].tolist() == pytest.approx([0.8, 0.8])


def test_a_run_that_kept_the_largest_drop_alone_is_read(copied):
    (copied / "metrics.json").write_text(json.dumps({"search": {"largest class drop": 2.0}}))
    run = open_run(copied)
    assert run.guard is None and run.search_figures == {"largest class drop": 2.0}


def test_the_budget_is_a_share(copied):
    run = open_run(copied)
    absolute = replace(run.config, budget=f"params:{0.6 * run.units.total('params'):.0f}")
    asked = FinishedRun(run.folder, absolute).budget
    assert (asked.resource, asked.amount) == ("params", pytest.approx(0.6, abs=1e-4))
    assert run.budget.amount == 0.5


@pytest.mark.parametrize("name", ["plan.json", "masks.safetensors", "masks_dense.safetensors", "metrics.json"])
def test_a_damaged_file_is_named_with_what_helps(copied, name):
    (copied / name).unlink(missing_ok=True)
    (copied / name).write_bytes(b"{\xff")
    run = open_run(copied)
    with pytest.raises(XPrunerError) as caught:
        _ = (run.plan, run.masks, run.dense_masks, run.search_figures)
    said = str(caught.value)
    assert said.startswith(f"{copied / name} cannot be read (") and not isinstance(caught.value, UsageError)
    anew = f"copy it again, or make the run again: `xpruner prune --config {copied}/config.yaml --output ANOTHER`."
    written_anew = "delete it, and the same `xpruner prune` command writes it again."
    assert said.endswith(written_anew if name == "metrics.json" else anew)


@pytest.mark.parametrize("name", ["plan.json", "masks.safetensors"])
def test_a_file_that_was_deleted_is_missing(copied, name):
    (copied / name).unlink()
    with pytest.raises(XPrunerError, match=rf"{name} cannot be read \(it is missing\); copy it again"):
        _ = open_run(copied).masks, open_run(copied).plan


def test_the_figures_of_a_guard_are_read(copied):
    figures = replace(guard_figures([1.5, 0.5] * 5), drops=[1.5, None] * 5)
    (copied / "metrics.json").write_text(json.dumps({"search": {"guard": asdict(figures)}}))
    assert open_run(copied).guard == figures


@pytest.mark.parametrize(
    ("guard", "reason"),
    [
        ({"limit": 2}, r"search\.guard\.largest is missing"),
        (asdict(guard_figures([1.5, 0.5])), r"search\.guard has 2 weights, but the run has 10 classes"),
        (asdict(guard_figures([1.5, True])), r"search\.guard\.weights\[1\] is True, but must be a finite number"),
    ],
)
def test_figures_of_a_guard_that_are_damaged(copied, guard, reason):
    (copied / "metrics.json").write_text(json.dumps({"search": {"guard": guard}}))
    with pytest.raises(XPrunerError, match=rf"metrics\.json cannot be read \({reason}\)"):
        _ = open_run(copied).guard


def test_names_that_several_classes_share_get_their_numbers():
    assert unique_names(["crane", "dog", "crane"]) == ["crane (0)", "dog", "crane (2)"]


def test_the_names_of_the_classes_need_no_images(copied):
    run = open_run(copied)
    lost = FinishedRun(copied, replace(run.config, data=DataConfig("nowhere")))
    assert lost.class_names == [str(digit) for digit in range(10)]
    with pytest.raises(UsageError, match="Unknown dataset 'nowhere'"):
        _ = lost.data


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (DataConfig("cifar10", root="images"), {"root": "images"}),
        (DataConfig("images"), {"name": "images"}),
        (DataConfig("digits"), None),
        (DataConfig("cifar10", root="not there"), None),
    ],
)
def test_a_run_remembers_where_its_images_lay(tmp_path, monkeypatch, data, kept):
    for folder in ("images", "digits", "cifar10"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    remember_data(RunConfig(output="run", data=data))
    path = tmp_path / "run" / "data.json"
    if kept is None:
        assert not path.exists()
    else:
        assert json.loads(path.read_text()) == {key: str(tmp_path / value) for key, value in kept.items()}


def test_images_are_found_from_another_directory(copied, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for label in range(10):
        (elsewhere / "images" / str(label)).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16), (number,) * 3).save(elsewhere / "images" / str(label) / f"{number}.png")
    config = replace(open_run(copied).config, data=DataConfig("./images"), output=str(copied))
    with monkeypatch.context() as there:
        there.chdir(elsewhere)
        remember_data(config)
    assert FinishedRun(copied, config).data.train.reader.source.name(0).startswith(str(elsewhere))
