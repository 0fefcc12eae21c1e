"""Models of transformers on disk: what was pruned comes back, where possible for transformers too."""

import json
import sys

import pytest
import torch
import transformers
from tiny_models import some_plan
from tiny_transformers import MODELS, tiny
from torch import nn

from xpruner.errors import UsageError, XPrunerError
from xpruner.models.checkpoint import load, read_structure, save
from xpruner.plan.plan import Plan
from xpruner.runtime.outputs import logits_of, tensors_of
from xpruner.surgery import apply
from xpruner.units import find_units


def size_of(name: str) -> tuple[int, int, int]:
    return (3, 64, 64) if "detr" in name else (3, 32, 32)


def answer(model: nn.Module, name: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    images = torch.rand(2, *size_of(name))
    with torch.no_grad():
        return tensors_of(model(images))


@pytest.fixture
def narrow_vit() -> nn.Module:
    """A ViT with 24 of 40 hidden units in every block, which its configuration can express."""
    model = tiny("vit")
    units = find_units(model, ["hidden"])
    return apply(model, Plan.of(units, {group.key: range(0, 24) for group in units}))


@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_model_comes_back_bit_for_bit(tmp_path, name):
    model = tiny(name)
    pruned = apply(model, some_plan(find_units(model, size=size_of(name))))
    save(pruned, tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is type(model)
    assert all(map(torch.equal, answer(loaded, name), answer(pruned, name)))
    weights, wanted = loaded.state_dict(), pruned.state_dict()
    assert all(torch.equal(weights[path], tensor) for path, tensor in wanted.items())


def test_the_structure_names_class_and_configuration(tmp_path, narrow_vit):
    save(narrow_vit, tmp_path)
    structure = read_structure(tmp_path)
    assert (structure.library, structure.architecture) == ("transformers", type(narrow_vit).__name__)
    assert structure.made_with == transformers.__version__
    assert structure.kwargs["intermediate_size"] == 40
    assert {count for key, count in structure.units.items() if key.endswith(":hidden")} == {24}
    assert structure.input.size == (32, 32)


def test_what_a_configuration_can_express_is_read_by_from_pretrained(tmp_path, narrow_vit):
    save(narrow_vit, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["intermediate_size"] == 24
    loaded = type(narrow_vit).from_pretrained(tmp_path).eval()
    assert loaded.config.intermediate_size == 24
    assert all(map(torch.equal, answer(loaded, "vit"), answer(narrow_vit, "vit")))


def test_what_it_cannot_express_leaves_no_configuration_behind(tmp_path, narrow_vit):
    save(narrow_vit, tmp_path)
    units = find_units(narrow_vit)
    save(apply(narrow_vit, Plan.of(units, {units.groups[0].key: [0]})), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "structure.json"]


def test_a_class_that_transformers_does_not_have(tmp_path, narrow_vit):
    save(narrow_vit, tmp_path)
    path = tmp_path / "structure.json"
    path.write_text(path.read_text().replace(type(narrow_vit).__name__, "ViTForMindReading"))
    with pytest.raises(UsageError, match="transformers has no model class 'ViTForMindReading'"):
        load(tmp_path)


def test_a_configuration_that_does_not_fit_the_weights(tmp_path, narrow_vit):
    save(narrow_vit, tmp_path)
    data = json.loads((tmp_path / "structure.json").read_text())
    data["kwargs"]["hidden_size"] = 36
    (tmp_path / "structure.json").write_text(json.dumps(data))
    with pytest.raises(XPrunerError, match=r"does not fit its structure\.json in transformers .* has shape"):
        load(tmp_path)


def test_a_model_that_its_configuration_does_not_tell(tmp_path):
    model = transformers.ViTModel(tiny("vit").config, add_pooling_layer=False)
    with pytest.raises(UsageError, match=r"The ViTModel cannot be rebuilt from its configuration: .* undo what"):
        save(model, tmp_path)


def test_without_the_library_the_message_says_how_to_get_it(tmp_path, narrow_vit, monkeypatch):
    save(narrow_vit, tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"transformers is needed to load this model; pip install 'xpruner\[transform"):
        load(tmp_path)


def test_a_model_without_logits_cannot_classify():
    with pytest.raises(UsageError, match=r"returns a BaseModelOutput.* without logits; give an image classifier"):
        logits_of(tiny("clip")(torch.rand(1, 3, 32, 32)))
