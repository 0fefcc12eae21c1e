"""The pipeline over a run directory: what it leaves, and that nothing is lost when it is killed."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import exit_code
from run_and_die import heal, run, tiny_run
from safetensors.torch import load_file

import xpruner
from xpruner.config import (
    CompensateConfig,
    DataConfig,
    FinetuneConfig,
    MaskConfig,
    RunConfig,
    SearchConfig,
    ThresholdConfig,
    preset,
)
from xpruner.errors import UsageError
from xpruner.explain.class_cards import class_card
from xpruner.report.contents import gather
from xpruner.run import folder as runs
from xpruner.run.finished import open_run
from xpruner.run.pipeline import run_pipeline, unseen_classes
from xpruner.units import find_units


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert exit_code(run, str(folder)) == 0
    return folder


def test_a_run_leaves_every_file(whole):
    expected = ["config.yaml", "metrics.json", "plan.json", "masks.safetensors", "log.txt", "dense", "pruned"]
    assert [name for name in expected if not (whole / name).exists()] == []
    assert list((whole / "tensorboard").glob("events*"))
    assert not list(whole.rglob("*.pt")) + list(whole.rglob("*.pth")) + list(whole.rglob("*.bin"))
    assert json.loads((whole / "metrics.json").read_text())["environment"]["precision"] == "fp32"


def test_the_budget_is_met_by_torchs_counter(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    model = xpruner.load(whole / "pruned")
    assert xpruner.count_macs(model) == metrics["finetuned"]["macs"]
    assert abs(metrics["finetuned"]["macs"] / metrics["dense"]["macs"] - 0.5) <= 0.01 * 0.5


def test_masks_are_stored_for_every_unit_of_the_dense_model(whole):
    dense = xpruner.load(whole / "dense")
    masks = load_file(whole / "masks.safetensors")
    assert {key: m.shape for key, m in masks.items()} == {
        group.key: (10, group.size) for group in xpruner.find_units(dense)
    }


def test_the_masks_of_the_dense_model_are_those_of_the_first_round(whole):
    dense = load_file(whole / "masks_dense.safetensors")
    first = load_file(whole / "state" / "search" / "round-1" / "masks.safetensors")
    assert dense.keys() == first.keys() and all(torch.equal(dense[key], first[key]) for key in first)
    last = load_file(whole / "masks.safetensors")
    assert not all(torch.equal(dense[key], last[key]) for key in last)


WHERE = ["stage:dense", "search:3", "search:8", "search:18", "stage:search", "stage:compensated", "finetune:7",
         "stage:finetuned"]  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("where", WHERE)
def test_nothing_lost_when_killed(whole, tmp_path, where):
    """A run killed by SIGKILL ends, after the same command again, with the weights of one left alone."""
    folder = tmp_path / "run"
    assert exit_code(run, str(folder), where) == -signal.SIGKILL
    assert exit_code(run, str(folder)) == 0
    ours, theirs = (load_file(path / "pruned" / "model.safetensors") for path in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (folder / "plan.json").read_text() == (whole / "plan.json").read_text()


@pytest.mark.integration
def test_healing_that_is_killed_ends_with_the_weights_of_one_left_alone(tmp_path):
    assert exit_code(heal, str(tmp_path / "whole")) == 0
    for blocks in (1, 2):
        folder = tmp_path / f"killed-{blocks}"
        assert exit_code(heal, str(folder), f"heal:{blocks}") == -signal.SIGKILL
        assert exit_code(heal, str(folder)) == 0
        ours, theirs = (load_file(path / "pruned" / "model.safetensors") for path in (folder, tmp_path / "whole"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert metrics["compensated"]["seconds"] > 0


def test_a_finished_run_computes_nothing_again(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("model.safetensors")}
    torch.manual_seed(0)
    result = run_pipeline(tiny_run(str(whole)))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("model.safetensors")} == before
    assert result.metrics == json.loads((whole / "metrics.json").read_text())


def test_a_run_goes_on_in_the_precision_that_auto_was_when_it_was_begun(tmp_path, monkeypatch):
    """Begun where bf16 is faster, stopped before fine-tuning, and continued where fp32 is."""
    config = replace(tiny_run(str(tmp_path / "run")), method="l2", precision="auto", finetune=FinetuneConfig(steps=1))
    torch.manual_seed(0)
    monkeypatch.setattr(runs, "resolve_precision", lambda asked, device: "bf16")
    begun = run_pipeline(config)
    path = tmp_path / "run" / "metrics.json"
    path.write_text(json.dumps({stage: begun.metrics[stage] for stage in ("dense", "search", "pruned", "compensated")}))
    monkeypatch.setattr(runs, "resolve_precision", lambda asked, device: "fp32")
    continued = run_pipeline(config)
    assert continued.metrics["environment"]["precision"] == "bf16"
    for tensor, wanted in zip(continued.model.parameters(), begun.model.parameters(), strict=True):
        assert torch.equal(tensor, wanted)


def test_a_run_directory_of_another_configuration_is_refused(whole):
    with pytest.raises(UsageError, match=r"finetune\.lr 0\.0002, not 0\.1"):
        run_pipeline(replace(tiny_run(str(whole)), finetune=replace(tiny_run("").finetune, lr=0.1)))


@pytest.mark.parametrize("name", ["default", "paper"])
def test_both_presets_run(tmp_path, name):
    """On few steps; the module comes in as a stock timm model and the result is one call away."""
    import timm
    from run_and_die import TINY

    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=10, **TINY)
    config = preset(name)
    result = xpruner.prune(
        model,
        tiny_run("").data,
        0.5,
        preset=name,
        output=tmp_path / "run",
        masks=replace(config.masks, steps=2),
        thresholds=replace(config.thresholds, steps=3),
        finetune=replace(config.finetune, epochs=1),
        precision="fp32",
        latency=[2],
    )
    assert result.metrics["pruned"]["budget_error"] <= 0
    assert result.metrics["pruned"]["budget_error"] >= -0.01
    assert result.model.state_dict().keys() == model.state_dict().keys()
    assert set(result.metrics["latency"]) == {"dense", "pruned"}


FINER = ["head", "hidden", "qk", "v"]


@pytest.mark.integration
def test_finer_units_with_even_widths_and_the_same_again_after_a_stop(tmp_path):
    """The dense model is turned once; what a stopped run left is what its continuation goes on with."""
    torch.manual_seed(0)
    config = replace(
        tiny_run(str(tmp_path / "run")), units=FINER, round_to={"hidden": 8, "qk": 2},
        thresholds=ThresholdConfig(), masks=MaskConfig(), finetune=FinetuneConfig(epochs=0),
    )  # fmt: skip
    result = run_pipeline(config)
    counts = {key: len(kept) for key, kept in result.plan.keep.items()}
    assert {key.rpartition(":")[2] for key in counts} == set(FINER)
    units = find_units(xpruner.load(tmp_path / "run" / "dense"), FINER)
    largest_bundle = max(8 * group.macs for group in units if group.kind == "hidden")
    pruned = result.metrics["pruned"]
    assert 0 <= pruned["budget_asked"] - pruned["budget_reached"] < largest_bundle
    assert all(count % 8 == 0 for key, count in counts.items() if key.endswith(":hidden"))
    assert all(count % 2 == 0 for key, count in counts.items() if key.endswith(":qk"))
    assert result.masks.keys() == counts.keys()
    dense = xpruner.load(tmp_path / "run" / "dense")
    cut = xpruner.apply(dense, result.plan)
    assert xpruner.count_macs(cut) == xpruner.count_macs(result.model) == result.plan.cost["macs_pruned"]
    (tmp_path / "run" / "pruned" / "structure.json").unlink()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for stage in ("pruned", "compensated", "finetuned"):
        del metrics[stage]
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    torch.manual_seed(0)
    again = run_pipeline(config)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.model(images), result.model(images))


@pytest.mark.parametrize("kinds", [["embed"], ["block", "hidden"], ["head", "hidden", "qk", "v", "embed", "block"]])
def test_every_kind_of_unit_can_be_asked_for(tmp_path, kinds):
    config = replace(
        tiny_run(str(tmp_path / "run")), units=kinds, budget="0.6", rounds=1,
        thresholds=ThresholdConfig(), masks=MaskConfig(), finetune=FinetuneConfig(steps=1, features=1.0),
    )  # fmt: skip
    result = run_pipeline(config)
    assert -0.04 <= result.metrics["pruned"]["budget_error"] <= 0  # one of 24 channels is 4 % of the model
    assert {key.rpartition(":")[2] for key in result.plan.keep} == set(kinds)


def test_a_model_with_other_classes_is_refused(tiny_vit, tmp_path):
    with pytest.raises(UsageError, match="5 classes but the data have 10"):
        xpruner.prune(tiny_vit, "digits", output=tmp_path / "run")


def test_an_unknown_option_names_the_nearest(tiny_vit):
    with pytest.raises(UsageError, match="did you mean 'finetune'"):
        xpruner.prune(tiny_vit, "digits", finetunes=FinetuneConfig())


def test_a_budget_out_of_reach_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(UsageError, match="out of reach"):
        run_pipeline(replace(tiny_run(str(tmp_path / "run")), budget="0.01"))
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_search_that_changes_weights_hands_them_on(tmp_path):
    """FLAP's biases are what is compensated next; a mode that would add them again is refused before that."""
    config = replace(tiny_run(str(tmp_path / "run")), method="flap", finetune=FinetuneConfig(epochs=0))
    with pytest.raises(UsageError, match="'flap' changes them; set it to sequential or none"):
        run_pipeline(replace(config, compensate=CompensateConfig(mode="mean")))
    run_pipeline(config)
    found = xpruner.load(tmp_path / "run" / "state" / "found")
    cut = xpruner.apply(xpruner.load(tmp_path / "run" / "dense"), xpruner.Plan.load(tmp_path / "run" / "plan.json"))
    assert not torch.equal(found.blocks[0].mlp.fc2.bias, cut.blocks[0].mlp.fc2.bias)
    assert torch.equal(found.blocks[0].mlp.fc2.weight, cut.blocks[0].mlp.fc2.weight)


def test_a_method_whose_models_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'hvt' makes models that cannot be saved; `xpruner compare` runs it"):
        run_pipeline(replace(tiny_run(str(tmp_path / "run")), method="hvt"))


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": MaskConfig(temperature=0)},
        {"thresholds": ThresholdConfig(lr=-1.0)},
        {"finetune": FinetuneConfig(epochs=-1)},
        {"finetune": FinetuneConfig(lr=-1.0)},
        {"finetune": FinetuneConfig(teacher="nowhere/at/all")},
        {"finetune": FinetuneConfig(steps=1, mixup=0.2), "data": replace(tiny_run("").data, batch_size=15)},
        {"latency": [0]},
        {"rounds": 0},
        {"seed": -1},
        {"precision": "fp16"},
        {"method": "nvit", "search": SearchConfig(steps=0)},
        {"method": "wanda", "units": ["block", "hidden"]},
        {"masks": MaskConfig(evidence="guesses")},
        {"budget": "half"},
        {"units": ["heads"]},
        {"max_class_drop": 0.5},
    ],
)
def test_a_refused_request_writes_nothing(tmp_path, changes):
    with pytest.raises(UsageError):
        run_pipeline(replace(tiny_run(str(tmp_path / "run")), **changes))
    assert not (tmp_path / "run").exists()


def test_a_budget_carries_its_widths_into_the_run(tiny_vit, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("xpruner.api.run_pipeline", lambda config, *_: seen.append(config))
    xpruner.prune(tiny_vit, budget=xpruner.Budget.parse("0.5", {"hidden": 16}), finetune={"epochs": 0}, units="head")
    xpruner.prune(tiny_vit, budget="params:0.4", round_to={"hidden": 8})
    assert [config.round_to for config in seen] == [{"hidden": 16}, {"hidden": 8}]
    assert (seen[0].budget, seen[0].finetune.epochs, seen[0].units) == ("macs:0.5", 0, ["head"])


def test_classes_that_the_masks_see_no_image_of_are_told_and_kept_with_the_run(tmp_path, caplog):
    """Of ten classes the four images for calibration show four at most; their masks alone say something."""
    config = replace(
        tiny_run(str(tmp_path / "run")), rounds=1, thresholds=ThresholdConfig(), masks=MaskConfig(),
        finetune=FinetuneConfig(epochs=0), data=DataConfig("digits", test_size=60, calibration_size=4, batch_size=4),
    )  # fmt: skip
    with caplog.at_level("WARNING", "xpruner"):
        metrics = run_pipeline(config).metrics
    run = open_run(tmp_path / "run")
    seen = set(run.data.calibration.labels.tolist())
    assert set(metrics["search"]["unseen_classes"]) == run.unseen == set(range(10)) - seen
    assert f"{10 - len(seen)} of 10 classes have training images, but none among the 4 for calibration" in caplog.text
    assert [class_card(run, label).seen for label in range(10)] == [label in seen for label in range(10)]
    masks = gather(run).masks
    assert masks.unseen == [str(label) for label in sorted(run.unseen)]
    assert sorted(masks.evidence.rows) == [[str(label)] for label in sorted(seen)]


def test_masks_that_are_learned_see_all_training_images():
    images = SimpleNamespace(num_classes=3, train=SimpleNamespace(labels=torch.tensor([0, 2, 2])),
                             calibration=SimpleNamespace(labels=torch.tensor([2])))  # fmt: skip
    assert unseen_classes(RunConfig(masks=MaskConfig(steps=0)), images) == [0, 1]
    assert unseen_classes(RunConfig(masks=MaskConfig(steps=5)), images) == [1]
    assert unseen_classes(RunConfig(method="taylor"), images) == []
