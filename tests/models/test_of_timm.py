"""A folder as timm saves it for the hub is read like any other."""

import json

import pytest
import torch
from timm.models import save_for_hf
from tiny_models import VIT, build

from xpruner.config import ModelConfig
from xpruner.data import InputSpec
from xpruner.errors import UsageError, XPrunerError
from xpruner.models import load_model
from xpruner.models.about import known_classes
from xpruner.models.of_timm import is_timm_folder

NAMES = ["ant", "bee", "cow", "dog", "elk"]
INPUT = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear", "crop_pct": 0.8}


@pytest.fixture(params=[True, False], ids=["safetensors", "pickle"])
def folder(request, tmp_path):
    model = build("vit_tiny_patch16_224", **VIT)
    model.pretrained_cfg.update(INPUT)
    arguments = {name: value for name, value in VIT.items() if name not in ("num_classes", "img_size")}
    config = {"model_args": arguments, "label_names": NAMES}
    save_for_hf(model, tmp_path, config, safe_serialization=request.param)
    return tmp_path, model


def test_weights_preprocessing_and_classes_are_those_of_the_folder(folder):
    path, model = folder
    assert is_timm_folder(str(path))
    loaded, kwargs = load_model(ModelConfig(str(path)), num_classes=7)  # of the data: the folder knows better
    assert kwargs["num_classes"] == 5
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))
    spec = InputSpec.of(loaded)
    assert (spec.size, spec.mean, spec.std) == ((32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (spec.interpolation, spec.crop_pct) == ("bilinear", 0.8)
    assert known_classes(loaded).names == tuple(NAMES)


def test_options_win_over_the_folder(folder):
    loaded, _ = load_model(ModelConfig(str(folder[0]), mean=[0.1, 0.2, 0.3], crop_pct=1.0, crop_mode="squash"))
    spec = InputSpec.of(loaded)
    assert (spec.mean, spec.std, spec.crop_pct, spec.crop_mode) == ((0.1, 0.2, 0.3), (0.2, 0.3, 0.4), 1.0, "squash")


def test_class_names_by_number_are_put_in_order(folder):
    path, _ = folder
    config = json.loads((path / "config.json").read_text())
    config["label_names"] = {str(n): NAMES[n] for n in (4, 2, 0, 1, 3)}
    (path / "config.json").write_text(json.dumps(config))
    assert known_classes(load_model(ModelConfig(str(path)))[0]).names == tuple(NAMES)


def test_a_folder_without_weights_is_refused(folder):
    path, _ = folder
    for file in [*path.glob("*.safetensors"), *path.glob("*.bin")]:
        file.unlink()
    with pytest.raises(UsageError, match=r"has neither model\.safetensors nor pytorch_model\.bin; copy the weights"):
        load_model(ModelConfig(str(path)))


def test_what_would_run_or_fetch_is_refused(folder):
    path, _ = folder
    config = json.loads((path / "config.json").read_text())
    config["model_args"]["checkpoint_path"] = "stranger.pth"
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="'checkpoint_path', which could run code or fetch files"):
        load_model(ModelConfig(str(path)))


@pytest.mark.parametrize("change", [{"model_args": 3}, {"pretrained_cfg": None}, {"num_classes": "many"}])
def test_a_damaged_config_is_told(folder, change):
    path, _ = folder
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(XPrunerError, match=r"config\.json is damaged"):
        load_model(ModelConfig(str(path)))
