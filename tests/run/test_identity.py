"""A run belongs to one model and to one set of images; another is refused, with what differs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from run_and_die import TINY, tiny_run
from torch import nn

import xpruner
from xpruner.config import DataConfig, FinetuneConfig, MaskConfig, ThresholdConfig
from xpruner.errors import UsageError, XPrunerError
from xpruner.run.finished import open_run
from xpruner.run.identity import IDENTITY, check_identity, first_difference, model_identity, note_identity
from xpruner.run.pipeline import run_pipeline

SIZE = (3, 16, 16)
QUICK = {"rounds": 1, "masks": MaskConfig(), "thresholds": ThresholdConfig(), "finetune": FinetuneConfig(steps=1)}


def model(seed: int = 0, **arguments) -> nn.Module:
    import timm

    torch.manual_seed(seed)
    found = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=10, **{**TINY, **arguments}).eval()
    with torch.no_grad():
        found.blocks[0].attn.qkv.weight *= 20  # at first all tokens get the same attention, whatever the heads
    return found


def test_a_copy_is_the_same_model():
    assert model_identity(model(), SIZE) == model_identity(model(), SIZE)


def test_one_other_weight_is_another_model():
    other = model()
    with torch.no_grad():
        other.head.bias[3] += 1e-3
    before, now = model_identity(model(), SIZE), model_identity(other, SIZE)
    assert before["weights"] != now["weights"]
    said = first_difference({"model": before}, {"model": now})
    assert said == f"another model (weights {before['weights']}, now {now['weights']})"


def test_equal_weights_with_other_heads_are_another_model():
    """Three heads of 8 and six of 4 have the same tensors."""
    before, now = model_identity(model(num_heads=3), SIZE), model_identity(model(num_heads=6), SIZE)
    assert before["weights"] == now["weights"]
    assert first_difference({"model": before}, {"model": now}) == (
        "another model (the same weights, but other outputs)"
    )


def test_outputs_that_were_rounded_otherwise_are_the_same():
    before = {"model": {"outputs": [1.0, -2.0]}}
    assert first_difference(before, {"model": {"outputs": [1.0001, -2.0]}}) is None
    assert first_difference(before, {"model": {"outputs": [1.001, -2.0]}}) is not None


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"classes": ["cat", "cow"]}, "other test images (classes: number 1 is 'dog', now 'cow')"),
        ({"images a class": [4]}, "other test images (2 images a class, now 1)"),
        ({"checksum": "b"}, "other test images (checksum a, now b)"),
    ],
)
def test_what_differs_in_images_is_said(now, said):
    before = {"classes": ["cat", "dog"], "images a class": [4, 4], "checksum": "a"}
    assert first_difference({"test images": before}, {"test images": before | now}) == said


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / IDENTITY).write_text("[1]")
    with pytest.raises(XPrunerError, match=r"identity\.json cannot be read .*; delete it"):
        check_identity(tmp_path, {})


def test_a_second_model_is_never_taken_for_the_first(tmp_path):
    """The same call with another module does not hand back what the first one became."""
    first, second = model(0), model(1)
    config = tiny_run(str(tmp_path / "run"))
    arguments = {"data": config.data, "output": config.output, "precision": "fp32", "latency": [], **QUICK}
    result = xpruner.prune(first, **arguments)
    with pytest.raises(UsageError, match=r"run belongs to a run of another model \(weights \w+, now \w+\); choose"):
        xpruner.prune(second, **arguments)
    assert torch.equal(xpruner.prune(first, **arguments).model.head.weight, result.model.head.weight)


@pytest.fixture
def images(tmp_path):
    """A folder of two classes, each of one colour with noise, for training and for testing."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (16, 16, 3), dtype=np.uint8) + np.uint8(120 * label)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.bmp")
    return tmp_path / "data"


def swap(folder) -> None:
    (folder / "cat").rename(folder / "kept")
    (folder / "dog").rename(folder / "cat")
    (folder / "kept").rename(folder / "dog")


def test_images_that_were_swapped_are_refused_and_told_of(images, tmp_path, caplog):
    """Names, counts and sizes stay as they were: what lies in the files is another class."""
    config = replace(
        tiny_run(str(tmp_path / "run")), data=DataConfig(str(images), calibration_size=8, batch_size=8), **QUICK
    )
    run_pipeline(config)
    swap(images / "test")
    with pytest.raises(UsageError, match=r"belongs to a run of other test images \(checksum"):
        run_pipeline(config)
    assert len(open_run(tmp_path / "run").data.test) == 12
    assert "was made on other test images (checksum" in caplog.text
    swap(images / "test")
    run_pipeline(config)


def test_a_class_that_was_renamed_is_refused(images, tmp_path):
    config = replace(
        tiny_run(str(tmp_path / "run")), data=DataConfig(str(images), calibration_size=8, batch_size=8), **QUICK
    )
    run_pipeline(config)
    for split in ("train", "test"):
        (images / split / "dog").rename(images / split / "hen")
    with pytest.raises(UsageError, match=r"other training images \(classes: number 1 is 'dog', now 'hen'\)"):
        run_pipeline(config)


def test_images_that_were_moved_are_the_same(images, tmp_path):
    config = replace(
        tiny_run(str(tmp_path / "run")), data=DataConfig(str(images), calibration_size=8, batch_size=8), **QUICK
    )
    first = run_pipeline(config)
    images.rename(tmp_path / "moved")
    (tmp_path / "data").symlink_to(tmp_path / "moved")
    assert run_pipeline(config).metrics == first.metrics


def test_another_teacher_is_refused(tmp_path):
    xpruner.save(model(1), tmp_path / "teacher")
    config = replace(tiny_run(str(tmp_path / "run")), **QUICK)
    config.finetune = FinetuneConfig(steps=1, teacher=str(tmp_path / "teacher"))
    run_pipeline(config)
    xpruner.save(model(2), tmp_path / "teacher")
    with pytest.raises(UsageError, match=r"belongs to a run of another teacher .*teacher"):
        run_pipeline(config)


def test_what_a_run_belongs_to_is_added_to_and_a_refusal_changes_nothing(tmp_path):
    note_identity(tmp_path, {"model": {"weights": "a"}})
    note_identity(tmp_path, {"model": {"weights": "a"}, "teacher t": {"weights": "b"}})
    before = (tmp_path / IDENTITY).read_text()
    with pytest.raises(UsageError, match=r"a run of another teacher t \(weights b, now c\)"):
        check_identity(tmp_path, {"teacher t": {"weights": "c"}})
    check_identity(tmp_path, {"teacher u": {"weights": "c"}})
    assert (tmp_path / IDENTITY).read_text() == before


def test_a_second_model_changes_nothing_in_the_folder_of_the_first(tmp_path):
    config = tiny_run(str(tmp_path / "run"))
    arguments = {"data": config.data, "output": config.output, "precision": "fp32", "latency": [], **QUICK}
    xpruner.prune(model(0), **{**arguments, "finetune": FinetuneConfig(epochs=0)})
    written = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="belongs to a run of another model"):
        xpruner.prune(model(1), **arguments)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == written
