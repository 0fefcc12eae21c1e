import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_models import MODELS, VIT, build, tiny
from torch import nn

from xpruner.config import FinetuneConfig, ModelConfig
from xpruner.data import InputSpec
from xpruner.errors import UsageError, XPrunerError
from xpruner.models import load_model, load_teacher
from xpruner.models.about import note
from xpruner.models.checkpoint import load, read_structure, save
from xpruner.plan.plan import Plan
from xpruner.surgery import apply

SHARED = Path(__file__).parents[3] / "shared" / "models"


def config(**changes) -> ModelConfig:
    return ModelConfig(**{"name": "vit_tiny_patch16_224", "num_classes": 5, "img_size": 32, "kwargs": VIT} | changes)


def assert_weights(model: nn.Module, wanted: nn.Module) -> None:
    given = model.state_dict()
    assert given.keys() == wanted.state_dict().keys()
    assert all(torch.equal(given[name], tensor) for name, tensor in wanted.state_dict().items())


@pytest.fixture
def saved(tmp_path) -> str:
    model = tiny("vit")
    save(apply(model, Plan({"blocks.0.attn:head": [1]}, {"blocks.0.attn:head": 3})), tmp_path / "saved")
    return str(tmp_path / "saved")


# By timm's name


def test_a_name_and_arguments_make_a_model(tmp_path):
    model, kwargs = load_model(config())
    assert kwargs == {"num_classes": 5, "img_size": 32, **VIT}
    assert (model.num_classes, model.patch_embed.img_size, len(model.blocks)) == (5, (32, 32), 2)
    assert not any(module.training for module in model.modules())
    save(model, tmp_path, kwargs=kwargs)
    assert_weights(load(tmp_path), model)


@pytest.mark.parametrize("field, argument, data, classes", [
    (4, 5, 6, 4),
    (None, 5, 6, 5),
    (None, None, 6, 6),
    (None, None, None, 1000),
])  # fmt: skip
def test_the_closest_word_on_the_number_of_classes_holds(field, argument, data, classes):
    arguments = dict(depth=1) if argument is None else dict(depth=1, num_classes=argument)
    model, kwargs = load_model(ModelConfig(num_classes=field, kwargs=arguments), data)
    assert model.num_classes == model.head.out_features == classes
    assert kwargs == arguments | ({} if data is None else {"num_classes": classes})


def test_a_name_may_carry_the_tag_of_its_weights():
    model, _ = load_model(ModelConfig("deit_tiny_patch16_224.fb_in1k", kwargs=dict(depth=1)))
    assert model.pretrained_cfg["architecture"] == "deit_tiny_patch16_224"


@pytest.mark.parametrize("name, remedy", [
    ("deit_tiny", "did you mean 'deit_tiny_patch16_224'?"),
    ("zzz", "known are: deit*, swin_*, vit_*."),
])  # fmt: skip
def test_an_unknown_name(name, remedy):
    with pytest.raises(UsageError) as error:
        load_model(ModelConfig(name))
    assert str(error.value) == f"Unknown timm model {name!r}; {remedy}"


def test_arguments_that_timm_refuses():
    with pytest.raises(UsageError, match=r"build 'vit_tiny_patch16_224' with .*'colour'.*; correct model\."):
        load_model(config(kwargs={"colour": "blue"}))
    with pytest.raises(UsageError, match=r"timm cannot build .*divisible by num_heads"):
        load_model(config(kwargs=dict(embed_dim=10, num_heads=3)))


def test_published_weights_without_a_network_or_a_cache(monkeypatch, tmp_path):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(XPrunerError, match=r"of deit_tiny_patch16_224 cannot be fetched \(.*; give a file as model\."):
        load_model(ModelConfig(pretrained=True))


def test_arguments_that_timm_refuses_are_no_matter_of_the_network():
    with pytest.raises(UsageError, match="'colour'"):
        load_model(config(pretrained=True, kwargs={"colour": "blue"}))


def test_random_weights_are_the_same_every_time_and_draw_nothing_from_elsewhere():
    state = torch.random.get_rng_state()
    first = load_model(config())[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    assert_weights(load_model(config())[0], first)


# By folder


def test_a_saved_folder_is_a_model(saved):
    model, kwargs = load_model(ModelConfig(saved), 5)
    assert model.blocks[0].attn.num_heads == 1
    assert kwargs == read_structure(saved).kwargs
    assert_weights(model, load(saved))


def test_a_saved_folder_called_like_a_timm_model_is_the_folder(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(saved).rename("deit_tiny_patch16_224")
    assert load_model(ModelConfig("deit_tiny_patch16_224"))[0].num_classes == 5


def test_another_folder_called_like_a_timm_model_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deit_tiny_patch16_224").mkdir()
    assert load_model(ModelConfig("deit_tiny_patch16_224", kwargs=dict(depth=1)))[0].num_classes == 1000


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(UsageError, match=r"has no structure\.json and no model\.safetensors"):
        load_model(ModelConfig(str(tmp_path)))
    with pytest.raises(UsageError, match="There is no folder runs/absent"):
        load_model(ModelConfig("runs/absent"))


@pytest.mark.parametrize("changes, fields", [
    ({"checkpoint": "a.pth"}, "model.checkpoint"),
    ({"img_size": 32}, "model.img_size"),
    ({"pretrained": True, "kwargs": {"depth": 2}}, "model.pretrained and model.kwargs"),
])  # fmt: skip
def test_a_saved_folder_takes_no_options(saved, changes, fields):
    with pytest.raises(UsageError, match=rf"is complete as it is; leave out {fields}\."):
        load_model(ModelConfig(saved, **changes))


@pytest.mark.parametrize("data", [None, 5, 7])
def test_a_saved_folder_for_other_classes(saved, data):
    with pytest.raises(UsageError, match=r"has 5 classes where model\.num_classes is 7; leave that out"):
        load_model(ModelConfig(saved, num_classes=7), data)


def test_a_saved_folder_knows_its_classes_better_than_the_data(saved):
    """Whether the data have these classes is asked where both are at hand."""
    assert load_model(ModelConfig(saved), 7)[0].num_classes == 5


def test_a_checkpoint_knows_its_classes_better_than_the_data(tmp_path):
    torch.save(build("vit_tiny_patch16_224", **VIT).state_dict(), tmp_path / "w.pth")
    kwargs = {name: value for name, value in VIT.items() if name not in ("num_classes", "img_size")}
    config = ModelConfig("vit_tiny_patch16_224", str(tmp_path / "w.pth"), img_size=32, kwargs=kwargs)
    assert load_model(config, 7)[0].num_classes == 5


# Checkpoints


@pytest.mark.parametrize("name", ["vit", "deit_distilled", "swin"])
def test_safetensors_are_loaded(tmp_path, name):
    wanted, path = tiny(name), tmp_path / "a.safetensors"
    safetensors.torch.save_file(wanted.state_dict(), path)
    timm_name, kwargs = MODELS[name]
    assert_weights(load_model(config(name=timm_name, kwargs=kwargs, checkpoint=str(path)))[0], wanted)


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
@pytest.mark.parametrize("nest", [None, "model", "state_dict", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pickles_of_tensors_are_loaded_however_nested(tmp_path, suffix, nest, prefix):
    wanted = tiny("vit")
    weights = {prefix + name: tensor for name, tensor in wanted.state_dict().items()}
    path = tmp_path / f"a.{suffix}"
    torch.save(weights if nest is None else {nest: weights, "epoch": 3}, path)
    assert_weights(load_model(config(checkpoint=str(path)))[0], wanted)


def test_averaged_weights_come_first(tmp_path):
    plain, averaged = tiny("vit"), tiny("vit")
    averaged.head.bias.data.add_(1)
    torch.save({"state_dict": plain.state_dict(), "state_dict_ema": averaged.state_dict()}, tmp_path / "a.pth")
    assert_weights(load_model(config(checkpoint=str(tmp_path / "a.pth")))[0], averaged)


@pytest.mark.parametrize(
    "name, classes, size", [("deit_tiny_cifar10_96", 10, 96), ("deit_tiny_patch16_224", 1000, 224)]
)
def test_a_trained_deit_is_loaded(name, classes, size):
    path = SHARED / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"the trained weights {path.name} are not on this machine")
    model, _ = load_model(ModelConfig(checkpoint=str(path), img_size=size), classes)
    assert torch.equal(model.head.weight, safetensors.torch.load_file(path)["head.weight"])


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"There is no checkpoint .*absent\.pth; correct model\.checkpoint\."):
        load_model(config(checkpoint=str(tmp_path / "absent.pth")))


@pytest.mark.parametrize("name, kwargs", [
    ("vit_tiny_patch16_224", VIT),
    ("deit_tiny_distilled_patch16_224", VIT),
    ("swin_tiny_patch4_window7_224", dict(patch_size=2, window_size=4, embed_dim=12, depths=(1,), num_heads=(2,))),
])  # fmt: skip
def test_a_classifier_for_other_classes(tmp_path, name, kwargs):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(build(name, **kwargs | dict(num_classes=7)).state_dict(), path)
    with pytest.raises(UsageError, match=r"has 7 classes where 5 are requested; .*labels that start at 1") as error:
        load_model(config(name=name, kwargs=kwargs, checkpoint=str(path)))
    assert "num_classes" not in str(error.value)  # with another number it would run, its labels shifted
    model, made_with = load_model(config(name=name, kwargs=kwargs, checkpoint=str(path), num_classes=None))
    assert model.num_classes == made_with["num_classes"] == 7  # where nothing else tells


def without_norm(weights):
    del weights["norm.weight"]


def with_more(weights):
    weights["extra.bias"] = torch.zeros(1)


def for_other_images(weights):
    weights["pos_embed"] = torch.zeros(1, 37, 24)


@pytest.mark.parametrize("change, message", [
    (without_norm, r"'norm\.weight' is missing"),
    (with_more, r"'extra\.bias' has no place in it"),
    (for_other_images, r"'pos_embed' has shape \(1, 37, 24\), not \(1, 17, 24\)"),
])  # fmt: skip
def test_a_checkpoint_of_another_model(tmp_path, change, message):
    weights = tiny("vit").state_dict()
    change(weights)
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=rf"a\.pth does not fit vit_tiny_patch16_224: {message}; give"):
        load_model(config(checkpoint=str(tmp_path / "a.pth")))


class Touch:
    """Leaves a file behind when it is unpickled as code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    torch.save({"model": Touch(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(XPrunerError, match=r"holds code .* convert it to safetensors"):
        load_model(config(checkpoint=str(tmp_path / "a.pth")))
    assert not (tmp_path / "ran").exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pth", weights_only=True)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_checkpoint(tmp_path, name, share):
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(tiny("vit").state_dict(), path)
    else:
        safetensors.torch.save_file(tiny("vit").state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(XPrunerError, match=r"The checkpoint .* damaged"):
        load_model(config(checkpoint=str(path)))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {"a": 1}}, {1: torch.zeros(2)}, torch.zeros(2)])
def test_a_checkpoint_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"holds no weights by name( but \w+)?; give a file of a model's state_dict\."):
        load_model(config(checkpoint=str(tmp_path / "a.pth")))


# Teachers


def test_the_dense_model_teaches_unless_the_recipe_says_otherwise(saved):
    dense = tiny("vit")
    assert load_teacher(FinetuneConfig(), dense) is dense
    assert load_teacher(FinetuneConfig(distill=0.0, teacher=saved), dense) is None
    assert_weights(load_teacher(FinetuneConfig(teacher=saved), dense), load(saved))


def test_a_teacher_of_other_classes_is_refused(saved):
    with pytest.raises(UsageError, match="has 5 classes but the model 7; give a teacher of the same classes"):
        load_teacher(FinetuneConfig(teacher=saved), build("vit_tiny_patch16_224", **VIT, num_classes=7))


def test_a_teacher_with_its_classes_in_another_order_is_refused(saved):
    dense = load(saved)
    note(dense, class_names=tuple("abcde"))
    save(dense, Path(saved).with_name("other"), class_names=list("bacde"))
    with pytest.raises(UsageError, match="has its classes in another order than the model"):
        load_teacher(FinetuneConfig(teacher=str(Path(saved).with_name("other"))), dense)


def test_a_teacher_of_another_size_is_refused(saved):
    with pytest.raises(UsageError, match=r"does not accept the model's images of 48 x 48 pixels .*; give a teacher"):
        load_teacher(FinetuneConfig(teacher=saved), build("vit_tiny_patch16_224", **{**VIT, "img_size": 48}))


def test_a_teacher_of_other_preprocessing_is_told_of(saved, caplog):
    dense = load(saved)
    note(dense, input=replace(InputSpec.of(dense), mean=(0.1, 0.1, 0.1)))
    load_teacher(FinetuneConfig(teacher=saved), dense)
    assert "expects 32 x 32 px" in caplog.text and "mean 0.1, 0.1, 0.1" in caplog.text


def test_options_of_preprocessing_win(saved):
    model, _ = load_model(ModelConfig(saved, std=[0.1, 0.2, 0.3], interpolation="lanczos"))
    before = InputSpec.of(load(saved))
    assert InputSpec.of(model) == replace(before, std=(0.1, 0.2, 0.3), interpolation="lanczos")
