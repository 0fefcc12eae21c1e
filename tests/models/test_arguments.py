"""A configuration or a folder from a stranger runs no code and fetches nothing."""

import json
from pathlib import Path

import pytest
import timm
import torch
import transformers
from tiny_models import VIT, tiny
from tiny_transformers import MODELS
from tiny_transformers import tiny as tiny_of_transformers

from xpruner.config import ModelConfig
from xpruner.errors import UsageError
from xpruner.models import load_model
from xpruner.models.arguments import check_config, check_timm
from xpruner.models.checkpoint import load, save

REFUSED = "could run code or fetch files"
CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import ViTConfig, ViTForImageClassification
class Config(ViTConfig):
    model_type = "evil"
class Model(ViTForImageClassification):
    config_class = Config
"""


class Touch:
    """Leaves a file behind when it is unpickled as code."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def network(monkeypatch) -> list[str]:
    """The calls that would have gone out."""
    calls: list[str] = []

    def connect(self, address):
        calls.append(str(address))
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", connect)
    return calls


@pytest.fixture
def folder(tmp_path, marker) -> Path:
    """A model of transformers with code of its own beside it, which nothing asks for."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=16, patch_size=4,
        num_labels=10,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "r")
    (tmp_path / "r" / "evil.py").write_text(CODE.format(marker=str(marker)))
    return tmp_path / "r"


@pytest.fixture
def pickle(tmp_path, marker) -> str:
    torch.save({"state_dict": Touch(marker)}, tmp_path / "evil.pth")
    return str(tmp_path / "evil.pth")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


EVIL_MAP = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}


@pytest.mark.parametrize("argument", [
    {"trust_remote_code": True},
    {"code_revision": "main"},
    {"attn_implementation": "someone/kernels"},
    {"attn_implementation": {"": "someone/kernels"}},
    {"quantization_config": {"quant_method": "gptq"}},
    {"auto_map": EVIL_MAP},
    {"adapter_kwargs": {"a": 1}},
    {"use_kernels": True},
    {"device_map": "auto"},
    {"subfolder": "../other"},
    {"gguf_file": "a.gguf"},
    {"revision": "other"},
    {"cache_dir": "/tmp"},
    {"use_safetensors": False},
    {"state_dict": {}},
    {"config": "someone/model"},
    {"dtype": "float16"},
])  # fmt: skip
def test_a_configuration_from_a_stranger_runs_nothing_of_a_folder(folder, marker, network, argument):
    plain = (folder / "config.json").read_text()
    edit(folder / "config.json", auto_map=EVIL_MAP, model_type="evil")
    with pytest.raises(UsageError, match=REFUSED):
        load_model(ModelConfig(str(folder), kwargs=argument))
    (folder / "config.json").write_text(plain)
    with pytest.raises(UsageError, match=rf"model\.kwargs gives transformers .*{REFUSED}"):
        load_model(ModelConfig(str(folder), kwargs=argument))
    assert not marker.exists() and network == []


@pytest.mark.parametrize("key, value", [
    ("auto_map", EVIL_MAP),
    ("quantization_config", {"quant_method": "bitsandbytes"}),
    ("attn_implementation", "someone/kernels"),
    ("_attn_implementation", "someone/kernels:v1"),
    ("backbone", "someone/model"),
    ("backbone_config", {"model_type": "timm_backbone", "backbone": "resnet18", "use_pretrained_backbone": True}),
    ("model_args", {"checkpoint_path": "evil.pth"}),
    ("architecture", "hf-hub:someone/model"),
])  # fmt: skip
def test_a_configuration_in_a_folder_is_looked_through(folder, marker, network, tmp_path, key, value):
    save(load_model(ModelConfig(str(folder)))[0], tmp_path / "saved")
    edit(folder / "config.json", **{key: value})
    with pytest.raises(UsageError, match=rf"config\.json gives (transformers|timm) .*{REFUSED}"):
        load_model(ModelConfig(str(folder)))
    kwargs = json.loads((tmp_path / "saved" / "structure.json").read_text())["kwargs"]
    edit(tmp_path / "saved" / "structure.json", kwargs=kwargs | {key: value})
    with pytest.raises(UsageError, match=rf"structure\.json gives (transformers|timm) .*{REFUSED}"):
        load(tmp_path / "saved")
    assert not marker.exists() and network == []


@pytest.mark.parametrize(
    "architecture", ["evil.Config", "models.auto.evil", "AutoModel", "pipeline", "ViTConfig", "__doc__"]
)
def test_only_classes_of_models_are_made(folder, tmp_path, architecture):
    save(load_model(ModelConfig(str(folder)))[0], tmp_path / "saved")
    edit(tmp_path / "saved" / "structure.json", architecture=architecture)
    with pytest.raises(UsageError, match=f"transformers has no model class {architecture!r}"):
        load(tmp_path / "saved")


@pytest.mark.parametrize("change", [lambda pickle: {"checkpoint_path": pickle}] + [
    lambda pickle, name=name: {name: {"file": pickle}} for name in ("pretrained_cfg", "pretrained_cfg_overlay")
] + [
    lambda pickle: {"pretrained": True, "pretrained_cfg_overlay": {"url": "https://example.org/evil.pth"}},
    lambda pickle: {"pretrained_cfg": {"hf_hub_id": "someone/model"}},
    lambda pickle: {"cache_dir": "/tmp"},
    lambda pickle: {"scriptable": True},
    lambda pickle: {"model_cls": "os.system"},
    lambda pickle: {"pretrained_filter_fn": "os.system"},
])  # fmt: skip
def test_arguments_of_timm_reach_the_architecture_alone(pickle, marker, network, tmp_path, change):
    argument = change(pickle)
    with pytest.raises(UsageError, match=rf"model\.kwargs gives timm the argument .*{REFUSED}"):
        load_model(ModelConfig("vit_tiny_patch16_224", kwargs=VIT | argument))
    save(tiny("vit"), tmp_path / "saved")
    kwargs = json.loads((tmp_path / "saved" / "structure.json").read_text())["kwargs"]
    edit(tmp_path / "saved" / "structure.json", kwargs=kwargs | argument)
    with pytest.raises(UsageError, match=rf"structure\.json gives timm the argument .*{REFUSED}"):
        load(tmp_path / "saved")
    assert not marker.exists() and network == []


def test_values_are_plain():
    check_timm(dict(depths=(2, 2), act_layer="relu", qk_norm=True, init_values=None, cfg={"a": [1, 2.5]}), "it")
    with pytest.raises(UsageError, match="it has 'act_layer' of the type type; give plain values"):
        check_timm({"act_layer": torch.nn.ReLU}, "it")
    with pytest.raises(UsageError, match="it has 'depths' of the type object"):
        check_timm({"depths": [1, [object()]]}, "it")


def test_plain_fields_of_a_configuration_may_be_set(folder):
    model, _ = load_model(ModelConfig(str(folder), kwargs={"hidden_dropout_prob": 0.1, "attn_implementation": "eager"}))
    assert (model.config.hidden_dropout_prob, model.config._attn_implementation) == (0.1, "eager")
    with pytest.raises(UsageError, match=r"'hiden_act', which is not a field of ViTConfig .*did you mean 'hidden_act'"):
        load_model(ModelConfig(str(folder), kwargs={"hiden_act": "relu"}))


@pytest.mark.parametrize("name", MODELS)
def test_the_configurations_of_all_families_pass(name):
    check_config(json.loads(tiny_of_transformers(name).config.to_json_string(use_diff=False)), "it")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_what_timm_records_of_a_model_passes(name):
    model = timm.create_model(name, num_classes=5, drop_path_rate=0.1)
    check_timm(getattr(model, "_model_args", {}), "it")


def test_a_folder_is_read_without_the_network(folder, network, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    save(load_model(ModelConfig(str(folder)))[0], tmp_path / "saved")
    load(tmp_path / "saved")
    load_model(ModelConfig(f"transformers:{folder}"))
    assert network == []


def test_an_adapter_beside_a_model_is_refused(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    with pytest.raises(UsageError, match="holds an adapter beside a model; save the model with the adapter merged in"):
        load_model(ModelConfig(str(folder)))
