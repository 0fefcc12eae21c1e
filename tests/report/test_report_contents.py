"""What the page says about finished runs, against values computed another way."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from run_and_die import tiny_run
from safetensors.torch import load_file

from xpruner.checkpoint import load
from xpruner.config import FinetuneConfig
from xpruner.errors import UsageError, XPrunerError
from xpruner.explain.audit import audit
from xpruner.explain.finished import open_run
from xpruner.pipeline import run_pipeline
from xpruner.report import pairs
from xpruner.report.contents import Contents, Drop, Latency, Stage, different, gather, headline, lost_first
from xpruner.report.pairs import choose


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
    metrics = json.loads((finished_folder / "metrics.json").read_text())
    assert [stage.name for stage in contents.stages] == ["dense", "pruned", "compensated", "fine-tuned"]
    assert contents.stages[-1] == Stage("fine-tuned", *(metrics["finetuned"][k] for k in ("top1", "macs", "params")))
    assert (contents.model, contents.method, contents.images) == ("vit_tiny_patch16_224", "xpruner", 60)
    assert contents.latency == [] and not contents.held_out
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
        assert layer.threshold == pytest.approx(odds[plan["keep"][layer.key]].min().item(), rel=1e-3)


def test_masks_and_evidence_are_those_of_the_run(contents, finished_folder):
    masks, dense = (load_file(finished_folder / f"{name}.safetensors") for name in ("masks", "masks_dense"))
    assert [table.key for table in contents.masks] == [layer.key for layer in contents.layers]
    for place, table in enumerate(contents.masks):
        m = masks[table.key].numpy()
        classes = [int(name) for [name] in table.rows]
        units = [unit for column in table.columns for unit in column.units]
        assert np.abs(table.percent - 100 * m[classes][:, units]).max() <= 0.5 + 1e-3
        kept = [column.units[0] for column in table.columns if column.kept]
        row = dense[table.key].numpy()[0]
        odds = row / (1 - row)
        assert contents.evidence.percent[contents.evidence.rows.index(["0"]), place] == pytest.approx(
            100 * odds[kept].sum() / odds.sum(), abs=0.6
        )
    assert contents.evidence.keys == [table.key for table in contents.masks]


def test_the_audit_is_what_the_models_say(contents, finished_folder):
    run = open_run(finished_folder)
    images = torch.stack([image for image, _ in run.images])
    labels = torch.tensor([label for _, label in run.images])
    with torch.no_grad():
        dense, pruned = (load(finished_folder / name)(images).argmax(1) for name in ("dense", "pruned"))
    right = [(said == labels).sum().item() for said in (dense, pruned)]
    assert sum(round(c.dense.value * c.images) for c in contents.audit.classes) == right[0]
    assert sum(round(c.pruned.value * c.images) for c in contents.audit.classes) == right[1]
    lost = ((dense == labels) & (pruned != labels)).nonzero().flatten().tolist()
    assert len(contents.lost) == min(12, len(lost)) > 0
    assert {image.number for image in contents.lost} <= set(lost)
    for image in contents.lost:
        assert (image.truth, image.taken_for) == (str(int(labels[image.number])), str(int(pruned[image.number])))
    assert contents.drop.value == pytest.approx(100 * (right[0] - right[1]) / 60)


def test_pairs_of_maps(contents):
    numbers = [image.number for image in contents.lost[:3]]
    assert [pair.number for pair in contents.pairs][-len(numbers) :] == numbers
    for pair in contents.pairs:
        assert pair.dense == pair.truth and -1 <= pair.agreement <= 1
        assert len({pair.picture, pair.dense_map, pair.pruned_map}) == 3
    assert contents.without_maps == ""


def test_curves_are_those_of_the_history(contents):
    [curve] = contents.curves
    assert (curve.stage, curve.steps, set(curve.figures)) == ("finetune", [1, 2], {"loss", "lr", "grad_norm"})


def test_the_same_run_says_the_same(contents, finished_folder):
    again = gather(open_run(finished_folder))
    assert repr(again) == repr(contents)
    assert all((a.percent == b.percent).all() for a, b in zip(again.masks, contents.masks, strict=True))


def test_a_run_without_masks(without_masks):
    assert (without_masks.masks, without_masks.evidence, without_masks.importance) == ([], None, None)
    assert {layer.threshold for layer in without_masks.layers} == {None}
    assert without_masks.curves == [] and len(without_masks.pairs) >= 1
    [measured] = without_masks.latency
    assert measured.batch == 2 and measured.dense > 0


def test_a_model_that_maps_cannot_explain_gets_a_sentence(finished_folder, monkeypatch):
    def refuses(*_arguments, **_options):
        raise UsageError("This model has no attention.")

    monkeypatch.setattr(pairs, "saliency", refuses)
    found = gather(open_run(finished_folder))
    assert (found.pairs, found.without_maps) == ([], "This model has no attention.")


def test_wrong_requests(finished_folder, tmp_path):
    with pytest.raises(UsageError, match="Unknown explanation method 'relevanc'; did you mean 'relevance'"):
        gather(open_run(finished_folder), "relevanc")
    folder = tmp_path / "run"
    shutil.copytree(finished_folder, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["finetuned"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UsageError, match="is not finished"):
        gather(open_run(folder))
    (folder / "metrics.json").write_text("{")
    with pytest.raises(XPrunerError, match="cannot be read"):
        gather(open_run(folder))


STAGES = [Stage("dense", 0.9191, 208, 55), Stage("fine-tuned", 0.9123, 104, 22)]


@pytest.mark.parametrize(
    ("latency", "resource", "line"),
    [
        ([Latency(1, 3.0, 4.0), Latency(32, 148.0, 100.0)], "macs",
         "50.0 % of the MACs, 1.48× as fast at batch 32, 91.9 → 91.2 % top-1"),
        ([], "macs", "50.0 % of the MACs, 91.9 → 91.2 % top-1"),
        ([], "params", "40.0 % of the parameters, 91.9 → 91.2 % top-1"),
    ],
)  # fmt: skip
def test_the_headline(latency, resource, line):
    assert headline(STAGES, latency, resource) == line


def test_the_interval_of_a_drop():
    """Of 98 images 8 are lost and 3 gained: with half an image added to each outcome, 5 / 100 with a variance of
    (12 - 25 / 100) / 100² = 0.001175."""
    drop = Drop.of(8, 3, 98)
    assert drop.value == pytest.approx(100 * 5 / 98)
    assert (drop.low, drop.high) == pytest.approx((5 - 196 * 0.001175**0.5, 5 + 196 * 0.001175**0.5), abs=1e-3)
    assert Drop.of(2, 0, 2).high == 100 and Drop.of(0, 2, 2).low == -100


def test_names_that_several_classes_share_are_told_apart():
    assert different(["crane", "owl", "crane"]) == ["crane (0)", "owl", "crane (2)"]


def test_lost_images_come_from_each_class_in_turn():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    found = audit(labels, torch.tensor([0, 0, 1, 0, 0, 1]), labels, ["cat", "dog"])
    assert lost_first(found) == [3, 2, 4]


@pytest.mark.parametrize(
    ("right", "lost", "chosen"), [(range(10, 21), [1, 2, 3, 4], [10, 15, 20, 1, 2, 3]), ([5], [], [5]), ([], [], [])]
)
def test_images_to_explain(right, lost, chosen):
    assert choose(list(right), lost) == chosen
