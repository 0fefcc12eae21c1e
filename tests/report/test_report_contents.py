"""The contents of the page about finished runs, against values computed another way."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_contents import guard_of
from run_and_die import tiny_run
from safetensors.torch import load_file

from xpruner.config import FinetuneConfig
from xpruner.errors import UsageError
from xpruner.models.checkpoint import load
from xpruner.report import pairs
from xpruner.report.contents import Contents, gather
from xpruner.report.metrics import Stage
from xpruner.run.finished import open_run
from xpruner.run.pipeline import run_pipeline


@pytest.fixture(scope="module")
def contents(finished_folder) -> Contents:
    return gather(open_run(finished_folder))


@pytest.fixture(scope="module")
def without_masks(tmp_path_factory) -> Contents:
    """Of a run by the norms of weights, which learns nothing."""
    folder = tmp_path_factory.mktemp("by_norm") / "run"
    torch.manual_seed(0)
    run_pipeline(replace(tiny_run(str(folder)), method="l2", finetune=FinetuneConfig(epochs=0), latency=[2]))
    return gather(open_run(folder))


def test_stages_are_those_of_the_run(contents, finished_folder):
    last = json.loads((finished_folder / "metrics.json").read_text())["finetuned"]
    assert [stage.name for stage in contents.result.stages] == ["dense", "pruned", "compensated", "fine-tuned"]
    assert contents.result.stages[-1] == Stage("fine-tuned", last["top1"], last["macs"], last["params"])
    assert (contents.model, contents.method, contents.images) == ("vit_tiny_patch16_224", "xpruner", 60)
    assert contents.result.latency == [] and not contents.held_out
    assert contents.config == (finished_folder / "config.yaml").read_text()
    assert contents.versions["torch"] == torch.__version__


def test_layers_are_those_of_the_plan(contents, finished_folder):
    plan = json.loads((finished_folder / "plan.json").read_text())
    assert {layer.key: layer.kept for layer in contents.layers} == {k: len(v) for k, v in plan["keep"].items()}
    masks = load_file(finished_folder / "masks.safetensors")
    for layer in contents.layers:
        m = masks[layer.key].double()
        odds = (m / (1 - m)).mean(0)
        assert layer.units == m.shape[1]
        lowest = odds[plan["keep"][layer.key]].min().item()
        assert layer.lowest == pytest.approx(lowest, rel=1e-3)
        assert layer.above == (odds >= lowest).sum() - layer.kept


def test_masks_and_evidence_are_those_of_the_dense_model(contents, finished_folder):
    masks, decided = (load_file(finished_folder / f"{name}.safetensors") for name in ("masks_dense", "masks"))
    evidence = contents.masks.evidence
    assert any(not torch.equal(masks[key], decided[key]) for key in masks)
    assert contents.masks.file == "masks_dense.safetensors"
    assert evidence.keys == [table.key for table in contents.masks.tables] == [layer.key for layer in contents.layers]
    for place, table in enumerate(contents.masks.tables):
        m = masks[table.key].numpy()
        classes = [int(name) for [name] in table.rows]
        units = [unit for column in table.columns for unit in column.units]
        assert np.abs(table.percent - 100 * m[classes][:, units]).max() <= 0.5 + 1e-3
        kept = [column.units[0] for column in table.columns if column.kept]
        odds = m[0] / (1 - m[0])
        share = 100 * odds[kept].sum() / odds.sum()
        assert evidence.percent[evidence.rows.index(["0"]), place] == pytest.approx(share, abs=0.6)


def test_a_run_without_masks_of_the_dense_model_names_the_deciding_ones(finished_folder, tmp_path):
    for path in finished_folder.iterdir():
        if path.name != "masks_dense.safetensors":
            (tmp_path / path.name).symlink_to(path)
    found = gather(open_run(tmp_path)).masks
    assert found.file == "masks.safetensors"
    decided = load_file(finished_folder / "masks.safetensors")
    for table in found.tables:
        kept = [column.units[0] for column in table.columns if column.kept]
        assert table.mean_kept == pytest.approx(100 * decided[table.key][:, kept].mean().item(), rel=1e-4)


def test_the_audit_is_of_what_the_models_predict(contents, finished_folder):
    run = open_run(finished_folder)
    images = torch.stack([image for image, _ in run.images])
    labels = torch.tensor([label for _, label in run.images])
    with torch.no_grad():
        dense, pruned = (load(finished_folder / name)(images).argmax(1) for name in ("dense", "pruned"))
    right = [(predicted == labels).sum().item() for predicted in (dense, pruned)]
    audited = contents.changes.audit
    assert sum(round(c.dense.value * c.images) for c in audited.classes) == right[0]
    assert sum(round(c.pruned.value * c.images) for c in audited.classes) == right[1]
    assert contents.changes.drop.value == pytest.approx(100 * (right[0] - right[1]) / 60)
    for shown, of, wrong in ((contents.changes.lost, dense, pruned), (contents.changes.gained, pruned, dense)):
        numbers = ((of == labels) & (wrong != labels)).nonzero().flatten().tolist()
        assert len(shown) == min(12, len(numbers)) > 0
        assert {image.number for image in shown} <= set(numbers)
        for image in shown:
            assert (image.truth, image.taken_for) == (str(int(labels[image.number])), str(int(wrong[image.number])))


def test_maps_are_of_images_that_both_get_right_and_of_lost_ones(contents):
    lost = [image.number for image in contents.changes.lost[:3]]
    assert [pair.number for pair in contents.maps.pairs][-len(lost) :] == lost
    for pair in contents.maps.pairs:
        assert pair.dense == pair.truth and -1 <= pair.similarity.spearman <= 1
    assert contents.maps.without == ""


def test_maps_are_of_the_images_that_one_chooses(finished_folder):
    run = open_run(finished_folder)
    found = gather(run, "gradcam", [17, 3]).maps
    assert found.method == "gradcam"
    assert [(p.number, p.truth) for p in found.pairs] == [(n, str(run.images[n][1])) for n in (17, 3)]


def test_importance_and_guard_are_those_of_the_run(finished_folder):
    """A guard that doubled the weight of class 0 and halved that of the others: so are the odds."""
    run = open_run(finished_folder)
    weights = [2.0] + [0.5] * 9
    run.__dict__["guard"] = guard_of(10, weights=weights)
    found = gather(run)
    assert found.guard.weights == weights
    decided = load_file(finished_folder / "masks.safetensors")
    for layer in found.layers:
        m = decided[layer.key].double()
        importance = (torch.tensor(weights)[:, None] * m / (1 - m)).mean(0)
        assert layer.lowest == pytest.approx(importance[run.plan.keep[layer.key]].min().item(), rel=1e-3)


def test_curves_are_those_of_the_history(contents):
    [curve] = contents.curves
    assert (curve.stage, curve.steps, set(curve.figures)) == ("finetune", [1, 2], {"loss", "lr", "grad_norm"})


def test_the_same_run_has_the_same_contents(contents, finished_folder):
    again = gather(open_run(finished_folder))
    assert repr(again) == repr(contents)
    tables = zip(again.masks.tables, contents.masks.tables, strict=True)
    assert all((a.percent == b.percent).all() for a, b in tables)


def test_a_run_without_masks(without_masks):
    assert (without_masks.masks, without_masks.importance) == (None, None)
    assert {layer.lowest for layer in without_masks.layers} == {None}
    assert without_masks.curves == [] and len(without_masks.maps.pairs) >= 1
    [measured] = without_masks.result.latency
    assert measured.batch == 2 and measured.dense > 0


def test_a_model_that_maps_cannot_explain_gets_a_sentence(finished_folder, monkeypatch):
    def refuses(*_arguments, **_options):
        raise UsageError("This model has no attention.")

    monkeypatch.setattr(pairs, "map_pair", refuses)
    found = gather(open_run(finished_folder)).maps
    assert (found.pairs, found.without) == ([], "This model has no attention.")


def test_wrong_requests(finished_folder, tmp_path):
    with pytest.raises(UsageError, match="Unknown explanation method 'relevanc'; did you mean 'relevance'"):
        gather(open_run(finished_folder), "relevanc")
    with pytest.raises(UsageError, match="The run has no image 60"):
        gather(open_run(finished_folder), images=[60])
    for path in finished_folder.iterdir():
        if path.name != "metrics.json":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UsageError, match="is not finished"):
        gather(open_run(tmp_path))
