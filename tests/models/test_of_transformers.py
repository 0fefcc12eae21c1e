"""Image classifiers of transformers, from a folder of its own format through the whole pipeline."""

from dataclasses import replace

import pytest
import torch
import transformers

import xpruner
from xpruner.config import DataConfig, FinetuneConfig, ModelConfig, preset
from xpruner.errors import UsageError
from xpruner.models import load_model
from xpruner.outputs import classes_of
from xpruner.pipeline import run_pipeline


@pytest.fixture
def folder(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=16, patch_size=4,
        num_channels=3, num_labels=10,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_folder_of_transformers_is_read(folder):
    for name in (str(folder), f"transformers:{folder}"):
        model, kwargs = load_model(ModelConfig(name))
        assert isinstance(model, transformers.ViTForImageClassification) and not model.training
        assert (classes_of(model), kwargs) == (10, None)


@pytest.mark.parametrize(("name", "message"), [
    ("transformers:no/such-model", "transformers cannot load 'no/such-model' .*; give a folder or hub name"),
])  # fmt: skip
def test_a_name_that_cannot_be_had(name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match=message):
        load_model(ModelConfig(name))


def test_what_is_settled_by_the_folder_cannot_be_set(folder):
    with pytest.raises(UsageError, match=r"is complete as it is; leave out model\.num_classes and model\.img_size"):
        load_model(ModelConfig(str(folder), num_classes=5, img_size=32))


@pytest.mark.integration
def test_it_is_pruned_to_the_budget_and_loaded_again(folder, tmp_path):
    config = replace(
        preset("default"),
        model=ModelConfig(str(folder)),
        data=DataConfig("digits", train_size=128, test_size=64, calibration_size=64),
        output=str(tmp_path / "run"),
        rounds=2,
        finetune=FinetuneConfig(epochs=1),
        precision="fp32",
        latency=[],
    )
    result = run_pipeline(config)
    assert isinstance(result.model, transformers.ViTForImageClassification)
    assert abs(result.metrics["pruned"]["budget_error"]) <= 0.01
    again = xpruner.load(result.folder / "pruned")
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(images).logits, result.model(images).logits)
