"""``xpruner evaluate`` on a model and images of one's own: the right figure, or a refusal, never a wrong figure."""

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from xpruner.cli import main

NAMES = sorted(f"class_{n}" for n in range(1, 13))  # class_1, class_10, class_11, class_12, class_2, ...


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A model whose folder says mean = std = 0.5 and names its classes, and images labelled by what it says."""
    root = tmp_path_factory.mktemp("by_name")
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=96,
            image_size=32,
            patch_size=8,
            num_labels=12,
            id2label=dict(enumerate(NAMES)),
            label2id={n: i for i, n in enumerate(NAMES)},
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    own = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3)
    model.save_pretrained(root / "model")
    own.save_pretrained(root / "model")
    rng = np.random.default_rng(0)
    for name in NAMES:
        for split in ("train", "test"):
            (root / "data" / split / name).mkdir(parents=True)
    for i in range(240):
        image = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32))
        with torch.no_grad():
            label = NAMES[model(**own(image, return_tensors="pt")).logits.argmax().item()]
        image.save(root / "data" / ("train" if i % 2 else "test") / label / f"{i}.png")
    for name in NAMES:  # none without a training image
        Image.new("RGB", (32, 32), (len(name), 0, 0)).save(root / "data" / "train" / name / "x.png")
    return root


def figures(capsys, *arguments: str) -> dict:
    assert main(["evaluate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> str:
    assert main(["evaluate", *arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_its_own_preprocessing_and_the_names_of_its_classes_are_used(labelled, capsys):
    """The folders are read as class_1, class_2, ..., class_10; the model was trained in another order."""
    found = figures(capsys, "--model.name", str(labelled / "model"), "--data.name", str(labelled / "data"))
    assert found["top1"] == 1.0
    assert found["data"]["classes"] == NAMES
    assert found["data"]["input"]["mean"] == [0.5, 0.5, 0.5]


def test_other_preprocessing_is_another_figure(labelled, capsys):
    """What the option says is done: with the values of ImageNet this model is wrong now and then."""
    given = ["--model.mean", "[0.485,0.456,0.406]", "--model.std", "[0.229,0.224,0.225]"]
    found = figures(capsys, "--model.name", str(labelled / "model"), "--data.name", str(labelled / "data"), *given)
    assert found["top1"] < 0.95


def test_images_of_other_classes_are_refused_by_name(labelled, tmp_path, capsys):
    (tmp_path / "data").symlink_to(labelled / "data")
    for split in ("train", "test"):
        for name in NAMES:
            target = "hen" if name == "class_12" else name
            (tmp_path / "copy" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "copy" / split / target).symlink_to(labelled / "data" / split / name)
    said = refused(capsys, "--model.name", str(labelled / "model"), "--data.name", str(tmp_path / "copy"))
    assert "the data lack 'class_12' and the model lacks 'hen'" in said


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("more", [[], ["--model.num_classes", "3"]])
def test_labels_that_start_at_one_are_refused_and_no_remedy_shifts_them(tmp_path, capsys, more):
    import timm

    torch.save(timm.create_model("test_vit", img_size=32, num_classes=3).state_dict(), tmp_path / "w.pth")
    for split in ("train", "test"):
        rows = {"image": [{"bytes": png(), "path": None}] * 6, "label": [i % 3 + 1 for i in range(6)]}
        pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / f"{split}.parquet")
    given = ["--model.name", "test_vit", "--model.img_size", "32", "--model.checkpoint", str(tmp_path / "w.pth")]
    said = refused(capsys, *given, "--data.name", str(tmp_path), *more)
    assert "The model has 3 classes but the data have 4: no image has label 0" in said
    assert "num_classes" not in said
