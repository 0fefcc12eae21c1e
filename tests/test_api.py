"""The public names, and the main job in one call."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
from run_and_die import tiny_run
from tiny_models import VIT, build

import xpruner
from xpruner.config import FinetuneConfig
from xpruner.errors import UsageError

SMALL = {"units": ["head", "hidden"], "rounds": 1, "precision": "fp32", "latency": [], "finetune": {"steps": 0}}


def test_every_public_name_is_there_and_says_what_it_is():
    for name in xpruner.__all__:
        assert name == "__version__" or inspect.getdoc(getattr(xpruner, name)), name
    assert dir(xpruner) == sorted({*xpruner.__all__} - {"__version__"})


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'xpruner' has no attribute 'prun'"):
        _ = xpruner.prun


@pytest.mark.parametrize(
    "package",
    ["calibration", "compensation", "maps", "masks", "measure", "methods", "models", "plan", "thresholds", "units"],
)
def test_what_a_package_exports_is_there(package):
    module = importlib.import_module(f"xpruner.{package}")
    assert module.__all__ and all(getattr(module, name) is not None for name in module.__all__)


def test_methods_presets_and_maps_can_be_listed():
    assert {"xpruner", "taylor", "nvit"} < {*xpruner.list_methods()}
    assert xpruner.list_presets() == ["default", "paper"]
    assert "relevance" in xpruner.list_maps()


def tiny() -> object:
    return build("vit_tiny_patch16_224", **VIT | {"img_size": 16, "num_classes": 10})


def test_without_an_output_every_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [xpruner.prune(tiny(), tiny_run("").data, 0.6, **SMALL).folder for _ in range(2)]
    assert folders == [Path("runs/prune-1"), Path("runs/prune-2")]


def test_a_refused_call_without_an_output_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="out of reach"):
        xpruner.prune(tiny(), tiny_run("").data, 0.001, **SMALL)
    assert not list((tmp_path / "runs").iterdir())


def test_two_models_do_not_share_a_folder(tmp_path):
    xpruner.prune(tiny(), tiny_run("").data, 0.6, output=tmp_path / "run", **SMALL)
    other = build("vit_tiny_patch16_224", **VIT | {"img_size": 16, "num_classes": 10})
    with pytest.raises(UsageError, match="belongs to a run of another model"):
        xpruner.prune(other, tiny_run("").data, 0.6, output=tmp_path / "run", **SMALL)


def test_options_are_dataclasses_or_dicts_of_what_differs(tmp_path):
    given = {**SMALL, "finetune": FinetuneConfig(steps=0)}
    result = xpruner.prune(tiny(), tiny_run("").data, "0.6", output=tmp_path / "run", **given)
    assert re.search(r"steps: 0", (result.folder / "config.yaml").read_text())
