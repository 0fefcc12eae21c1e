"""Image classifiers of transformers, from a folder of its own format through the whole pipeline."""

import logging
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import transformers

import xpruner
from xpruner.config import DataConfig, FinetuneConfig, ModelConfig, preset
from xpruner.errors import UsageError
from xpruner.models import load_model
from xpruner.run.pipeline import run_pipeline
from xpruner.runtime.outputs import classes_of


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


def spoil(folder, change) -> None:
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    change(weights)
    safetensors.torch.save_file(weights, path, {"format": "pt"})


def without_classifier(weights) -> None:
    del weights["classifier.weight"]


def not_a_number(weights) -> None:
    weights["classifier.bias"][0] = torch.nan


def whole_numbers(weights) -> None:
    weights["classifier.weight"] = weights["classifier.weight"].to(torch.int8)


@pytest.mark.parametrize(("change", "message"), [
    (without_classifier, r"lacks the weight 'classifier\.weight'; give a completely trained model"),
    (not_a_number, r"'classifier\.bias' of .* holds 1 values that are NaN or infinite"),
    (whole_numbers, r"'classifier\.weight' in .*model\.safetensors is of the type I8; give its weights in float32"),
])  # fmt: skip
def test_weights_that_cannot_be_used_are_named(folder, change, message):
    spoil(folder, change)
    with pytest.raises(UsageError, match=message):
        load_model(ModelConfig(str(folder)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folder_in_half_precision_is_read_in_float32_which_is_said(folder, caplog, dtype):
    half = transformers.ViTForImageClassification.from_pretrained(folder).to(dtype)
    half.save_pretrained(folder)
    with caplog.at_level(logging.INFO, "xpruner"):
        model, _ = load_model(ModelConfig(str(folder)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.classifier.weight, half.classifier.weight.float())
    assert "they are read in float32." in caplog.text


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_model_of_several_labels_or_numbers_is_refused(folder, kind, tmp_path):
    model = transformers.ViTForImageClassification.from_pretrained(folder)
    model.config.problem_type = kind
    model.save_pretrained(folder)
    xpruner.save(model, tmp_path / "saved")
    for name in (str(folder), str(tmp_path / "saved")):
        with pytest.raises(UsageError, match=f"has the problem_type '{kind}'"):
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
