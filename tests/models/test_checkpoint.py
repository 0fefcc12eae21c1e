import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import safetensors.torch
import timm
import tiny_models
import torch
from tiny_models import MODELS, VIT, build
from torch import nn

from xpruner.compensation.fit import compensate
from xpruner.config import CompensateConfig
from xpruner.data.spec import InputSpec
from xpruner.errors import UsageError, XPrunerError
from xpruner.models.checkpoint import load, read_structure, save
from xpruner.models.skeleton import RECORD
from xpruner.models.structure import Structure
from xpruner.plan.budget import MINIMA
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import DEFAULT_KINDS, KINDS, prunable_parts
from xpruner.units.modules.branch import ConstantBranch

SHARED = Path(__file__).parents[2] / "shared" / "models"
NOT_READ_OFF = ("swin_odd_heads",)
BASE = {"img_size": 32, "num_classes": 5}


def tiny(name: str) -> nn.Module:
    """Returns a tiny model with attention fused where timm does so by default."""
    return tiny_models.tiny(name, fused=not name.startswith("swin"))


def sizes(model: nn.Module) -> dict[str, int]:
    return {key: part.size for key, part in prunable_parts(model).items()}


def random_plan(model: nn.Module, least: int = 1, kinds: Sequence[str] = DEFAULT_KINDS) -> Plan:
    keep = {}
    for key, size in sizes(model).items():
        kind = key.rpartition(":")[2]
        if kind in kinds:
            count = int(torch.randint(min(least, MINIMA[kind]), size + 1, ()))
            keep[key] = sorted(torch.randperm(size)[:count].tolist())
    return Plan(keep, sizes(model))


def images(model: nn.Module) -> torch.Tensor:
    spec = InputSpec.of(model)
    return torch.rand(2, spec.channels, *spec.size).to(next(model.parameters()))


def assert_same(loaded: nn.Module, model: nn.Module) -> None:
    """Asserts bit-equal weights and outputs, and that the first came out of stock modules."""
    given, wanted = loaded.state_dict(), model.state_dict()
    assert given.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert given[name].dtype == tensor.dtype and torch.equal(given[name], tensor), name
    assert sizes(loaded) == sizes(model)
    assert not any(module.training for module in loaded.modules())
    x = images(model)
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))


def assert_round_trip(model: nn.Module, folder: Path, kwargs: dict | None = None) -> nn.Module:
    save(model, folder, kwargs=kwargs)
    loaded = load(folder)
    assert_same(loaded, model)
    return loaded


@pytest.fixture
def saved(tmp_path) -> Path:
    model = tiny("vit")
    save(apply(model, Plan({"blocks.0.attn:head": [0, 2]}, sizes(model))), tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder: Path, **changes) -> None:
    path = folder / "structure.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Round trips


@pytest.mark.parametrize("name", MODELS)
def test_a_dense_and_a_pruned_model_come_back_bit_for_bit(tmp_path, name):
    kwargs = BASE | MODELS[name][1]
    assert_round_trip(tiny(name), tmp_path / "dense", kwargs)
    assert_round_trip(apply(tiny(name), random_plan(tiny(name))), tmp_path / "pruned", kwargs)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"vit_post_norm", "vit_without_biases"}))
def test_a_model_cut_in_every_way_comes_back_bit_for_bit(tmp_path, name):
    kwargs = BASE | MODELS[name][1]
    for number in range(3):
        model = apply(tiny(name), random_plan(tiny(name), least=99, kinds=KINDS))
        assert_round_trip(model, tmp_path / f"{number}", kwargs)


def test_only_the_cut_groups_of_other_kinds_are_named(tmp_path):
    plan = Plan({"stream:embed": list(range(20)), "blocks.1:block": [], "blocks.0.attn:v": [1, 5]}, sizes(tiny("vit")))
    assert_round_trip(apply(tiny("vit"), plan), tmp_path, BASE | VIT)
    counts = {"blocks.0.attn:head": 3, "blocks.0.attn:v": 2, "blocks.0.mlp:hidden": 96, "blocks.1:block": 0}
    assert read_structure(tmp_path).units == {"stream:embed": 20, **counts}


def test_a_folder_of_the_first_version_can_be_read(saved):
    data = json.loads((saved / "structure.json").read_text())
    del data["made_with"]
    (saved / "structure.json").write_text(json.dumps({**data, "version": 1, "timm": "1.0.24"}))
    assert read_structure(saved).made_with == "1.0.24"
    assert load(saved).blocks[0].attn.num_heads == 2


def unrecorded(model: nn.Module) -> nn.Module:
    """Returns the model without the record of its arguments that later versions of timm keep."""
    vars(model).pop(RECORD, None)
    return model


@pytest.mark.parametrize("name", [name for name in MODELS if name not in NOT_READ_OFF])
def test_the_arguments_are_deduced_from_a_pruned_model(tmp_path, name):
    model = apply(tiny(name), random_plan(tiny(name), least=0))
    assert_round_trip(unrecorded(model), tmp_path)


def test_a_loaded_model_knows_what_it_was_made_of_whatever_was_cut(tmp_path):
    """Also where its shapes do not tell: six heads of four dimensions, of which one dimension is left."""
    arguments = BASE | VIT | dict(num_heads=6, act_layer="celu")
    save(unrecorded(build("vit_tiny_patch16_224", **arguments)), tmp_path / "dense", kwargs=arguments)
    model = load(tmp_path / "dense")
    plan = Plan({f"blocks.{n}.attn:{kind}": [0] for n in range(2) for kind in ("v", "qk", "head")}, sizes(model))
    loaded = assert_round_trip(apply(model, plan), tmp_path / "pruned")
    assert read_structure(tmp_path / "pruned").kwargs == read_structure(tmp_path / "dense").kwargs
    assert_round_trip(loaded, tmp_path / "again")


@pytest.mark.parametrize("name", ["vit", "deit_distilled", "swin", "deit3_layer_scale"])
def test_a_model_pruned_twice_with_empty_branches_comes_back(tmp_path, name):
    model = apply(tiny(name), random_plan(tiny(name)))
    loaded = assert_round_trip(model, tmp_path / "once")
    again = apply(loaded, random_plan(loaded, least=0))
    keys = [key for key in sizes(again) if key.endswith((":head", ":hidden"))]
    again = apply(again, Plan({keys[0]: [], keys[-1]: []}, sizes(again)))
    loaded = assert_round_trip(again, tmp_path / "twice")
    empty = {
        f"{path}:{'head' if path.endswith('attn') else 'hidden'}"
        for path, module in loaded.named_modules()
        if isinstance(module, ConstantBranch)
    }
    assert {keys[0], keys[-1]} <= empty
    assert empty == {key for key, count in read_structure(tmp_path / "twice").units.items() if count == 0}


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_model_without_any_branch_left_comes_back(tmp_path, name):
    model = tiny(name)
    model = apply(model, Plan({key: [] for key in sizes(model) if key.endswith((":head", ":hidden"))}, sizes(model)))
    assert_round_trip(model, tmp_path)
    assert set(read_structure(tmp_path).units.values()) == {0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_other_precisions_are_read_in_float32(tmp_path, name, dtype):
    model = apply(tiny(name), random_plan(tiny(name))).to(dtype)
    save(model, tmp_path)
    assert_same(load(tmp_path), model.float())


def test_buffers_that_are_not_in_the_file_are_right(tmp_path):
    model = tiny("swin")
    loaded = assert_round_trip(model, tmp_path)
    wanted = dict(model.named_buffers())
    assert any(path.endswith("attn_mask") for path in wanted)
    assert not wanted.keys() & safetensors.torch.load_file(tmp_path / "model.safetensors").keys()
    for path, buffer in loaded.named_buffers():
        assert torch.equal(buffer, wanted[path]), path


def test_biases_that_compensation_added_come_back(tmp_path):
    dense = tiny("vit_without_biases")
    group = "blocks.1.mlp:hidden"
    plan = Plan({group: [0, 1]}, sizes(dense))
    batch = [(torch.rand(8, 3, 32, 32), torch.zeros(8, dtype=torch.long))]
    pruned = compensate(apply(dense, plan), dense, plan, batch, CompensateConfig(mode="mean"))
    assert pruned.blocks[1].mlp.fc2.bias is not None
    assert_round_trip(pruned, tmp_path, BASE | MODELS["vit_without_biases"][1])
    assert read_structure(tmp_path).biases == ["blocks.1.mlp.fc2"]


def test_a_model_in_training_with_fused_attention_and_frozen_weights_can_be_saved(tmp_path):
    model = tiny_models.tiny("swin", fused=True).train().requires_grad_(False)
    save(model, tmp_path)
    assert all(module.training for module in model.modules())
    loaded, x = load(tmp_path), images(model)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model.eval()(x))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_loaded_model_trains(saved):
    model = load(saved).train()
    model(images(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_that_are_not_numbers_are_not_saved(tmp_path):
    model = tiny("vit")
    model.head.weight.data.fill_(torch.nan)
    with pytest.raises(UsageError, match=r"'head\.weight' of the model holds 120 values that are NaN"):
        save(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_neither_saving_nor_loading_draws_random_numbers(tmp_path):
    model, state = tiny("swin"), torch.random.get_rng_state()
    save(model, tmp_path)
    load(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_loaded_model_does_not_depend_on_the_file(saved):
    model = load(saved)
    before = model.head.weight.clone()
    (saved / "model.safetensors").write_bytes(bytes((saved / "model.safetensors").stat().st_size))
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize(
    "name, classes, size", [("deit_tiny_cifar10_96", 10, 96), ("deit_tiny_patch16_224", 1000, 224)]
)
def test_a_trained_deit_comes_back(tmp_path, name, classes, size):
    path = SHARED / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"the trained weights {path.name} are not on this machine")
    model = timm.create_model("deit_tiny_patch16_224", num_classes=classes, img_size=size)
    model.load_state_dict(safetensors.torch.load_file(path))
    assert_round_trip(apply(model, random_plan(model)), tmp_path)


# What is written


def test_the_structure_says_everything(tmp_path):
    model = tiny("deit")
    spec = InputSpec((32, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.8, "squash")
    save(
        apply(model, Plan({"blocks.0.attn:head": [1], "blocks.1.mlp:hidden": []}, sizes(model))),
        tmp_path,
        kwargs=BASE | VIT | dict(embed_dim=20, num_heads=5),
        input_spec=spec,
        class_names=list("abcde"),
        top1=0.75,
    )
    assert json.loads((tmp_path / "structure.json").read_text()) == {
        "top1": 0.75,
        "format": "xpruner",
        "version": 2,
        "library": "timm",
        "made_with": timm.__version__,
        "architecture": "deit_tiny_patch16_224",
        "kwargs": {
            "img_size": 32,
            "num_classes": 5,
            "patch_size": 8,
            "embed_dim": 20,
            "depth": 2,
            "num_heads": 5,
        },
        "units": {
            "blocks.0.attn:head": 1,
            "blocks.0.mlp:hidden": 80,
            "blocks.1.attn:head": 5,
            "blocks.1.mlp:hidden": 0,
        },
        "biases": [],
        "input": {
            "input_size": [3, 32, 32],
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "interpolation": "bilinear",
            "crop_pct": 0.8,
            "crop_mode": "squash",
        },
        "class_names": ["a", "b", "c", "d", "e"],
    }
    assert read_structure(tmp_path).input == spec
    assert InputSpec.of(load(tmp_path)) == spec
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "structure.json"]


def test_the_input_is_the_models_own_unless_given(tmp_path):
    model = tiny("vit")
    save(model, tmp_path)
    assert read_structure(tmp_path).input == InputSpec.of(model)
    assert read_structure(tmp_path).class_names is None


@pytest.mark.parametrize("name, kwargs, deduced", [
    ("deit_tiny_patch16_224", {}, BASE),
    ("deit_tiny_patch16_224", {"img_size": (32, 48), "num_classes": 0}, {"num_classes": 0, "img_size": [32, 48]}),
    ("vit_tiny_patch16_224", BASE | dict(in_chans=1, embed_dim=48, num_heads=2, depth=1),
     BASE | dict(in_chans=1, embed_dim=48, num_heads=2, depth=1)),
    ("vit_tiny_patch16_224", BASE | dict(global_pool="avg", class_token=False, init_values=0.1, depth=2),
     BASE | dict(global_pool="avg", class_token=False, init_values=1e-5, depth=2)),
    ("vit_tiny_patch16_224", BASE | dict(depth=2, mlp_ratio=4.5, drop_path_rate=0.2, dynamic_img_size=True),
     BASE | dict(depth=2, mlp_ratio=5, drop_path_rate=0.2, dynamic_img_size=True)),
    ("deit3_small_patch16_224", BASE | dict(depth=1), BASE | dict(depth=1)),
    ("swin_tiny_patch4_window7_224", MODELS["swin"][1] | BASE,
     BASE | dict(patch_size=2, embed_dim=12, depths=[2, 2], num_heads=[2, 4], window_size=4)),
    ("swin_tiny_patch4_window7_224", BASE | dict(drop_path_rate=0.0), BASE | dict(drop_path_rate=0.0)),
])  # fmt: skip
def test_only_arguments_other_than_the_architectures_are_deduced(tmp_path, name, kwargs, deduced):
    assert_round_trip(unrecorded(build(name, **kwargs)), tmp_path)
    assert read_structure(tmp_path).kwargs == deduced


def test_heads_already_pruned_are_counted_as_they_were(tmp_path):
    model = apply(tiny("swin"), Plan({"layers.1.blocks.0.attn:head": [3]}, sizes(tiny("swin"))))
    save(model, tmp_path)
    assert read_structure(tmp_path).kwargs["num_heads"] == [2, 4]
    assert read_structure(tmp_path).units["layers.1.blocks.0.attn:head"] == 1


def test_an_older_structure_never_stands_beside_newer_weights(saved, monkeypatch):
    def killed(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr("xpruner.models.checkpoint.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tiny("vit"), saved)
    with pytest.raises(UsageError, match=r"has no structure\.json"):
        load(saved)


def test_what_cannot_be_written_leaves_the_older_model(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(XPrunerError, match="disk is full"):
        save(tiny("vit"), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


# Models that cannot be rebuilt


def test_arguments_that_were_not_deduced_are_asked_for(tmp_path):
    with pytest.raises(UsageError, match=r"5 units in 'layers\.0\.blocks\.0\.attn:qk' where .*; pass .* as kwargs="):
        save(unrecorded(tiny("swin_odd_heads")), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_wrong_arguments_are_told_by_the_first_tensor_and_both_shapes(tmp_path):
    with pytest.raises(UsageError, match=r"'pos_embed' has shape \(1, 17, 24\), not \(1, 37, 24\); pass"):
        save(tiny("vit"), tmp_path, kwargs=BASE | VIT | dict(img_size=48))


def test_too_few_units_are_told_by_the_group(tmp_path):
    with pytest.raises(UsageError, match=r"96 units in 'blocks\.0\.mlp:hidden' where there are 48; pass"):
        save(tiny("vit"), tmp_path, kwargs=BASE | VIT | dict(mlp_ratio=2))


def test_an_activation_that_was_not_deduced_is_told_by_the_outputs(tmp_path):
    model = unrecorded(build("vit_tiny_patch16_224", act_layer="celu", **VIT))
    with pytest.raises(UsageError, match="its outputs differ; pass"):
        save(model, tmp_path)
    assert_round_trip(model, tmp_path, BASE | VIT | dict(act_layer="celu"))


def test_gates_left_on_a_model_are_told_by_the_outputs(tmp_path):
    model = tiny("vit")
    model.blocks[0].attn.proj.register_forward_pre_hook(lambda _, args: (0 * args[0],))
    with pytest.raises(UsageError, match="its outputs differ"):
        save(model, tmp_path)


def test_arguments_that_timm_refuses(tmp_path):
    with pytest.raises(UsageError, match=r"timm refuses the arguments \(TypeError: .*'colour'"):
        save(tiny("vit"), tmp_path, kwargs={"colour": "blue"})


def test_arguments_that_are_no_json(tmp_path):
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        save(tiny("vit"), tmp_path, kwargs={"act_layer": nn.ReLU})


def test_a_model_that_timm_did_not_make(tmp_path):
    with pytest.raises(UsageError, match="does not name its timm architecture"):
        save(nn.Linear(2, 2), tmp_path)
    with pytest.raises(UsageError, match="does not name its timm architecture"):
        save(timm.models.VisionTransformer(img_size=32, embed_dim=24, depth=1, num_heads=3), tmp_path)


# Folders that cannot be loaded


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"There is no folder .*absent; give one written by xpruner\.save\."):
        load(tmp_path / "absent")


@pytest.mark.parametrize("name", ["structure.json", "model.safetensors"])
def test_a_folder_without_one_of_the_files(saved, name):
    (saved / name).unlink()
    with pytest.raises(UsageError, match=f"has no {name}; give"):
        load(saved)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "best.pth", "last.pt"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match=f"holds the pickle {name}, .* convert it to safetensors"):
        load(tmp_path)


def test_a_pickle_named_by_the_structure_is_never_opened(saved, tmp_path):
    torch.save({}, tmp_path / "evil.pth")
    structure = read_structure(saved)
    edit(saved, kwargs=structure.kwargs | {"checkpoint_path": str(tmp_path / "evil.pth")})
    with pytest.raises(UsageError, match="gives timm the argument 'checkpoint_path', which could run code"):
        load(saved)


@pytest.mark.parametrize("text, message", [
    ("{", "is damaged"),
    ("[]", "is damaged"),
    ("\xff", "is damaged"),
    ("{}", "lacks 'format'"),
])  # fmt: skip
def test_a_structure_that_is_not_json_as_written(saved, text, message):
    (saved / "structure.json").write_text(text)
    with pytest.raises(XPrunerError, match=rf"structure\.json cannot be read: The structure {message}.*save the model"):
        load(saved)


def test_a_structure_that_is_no_text(saved):
    (saved / "structure.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(XPrunerError, match=r"cannot be read: .*utf-8"):
        load(saved)


@pytest.mark.parametrize("key", ["version", "library", "architecture", "kwargs", "units", "biases", "input",
                                 "class_names"])  # fmt: skip
def test_a_structure_that_lacks_a_key(saved, key):
    data = json.loads((saved / "structure.json").read_text())
    del data[key]
    with pytest.raises(XPrunerError, match=f"lacks '{key}'; save the model again"):
        Structure.from_json(json.dumps(data))


def test_a_structure_of_a_newer_version(saved):
    edit(saved, version=3)
    with pytest.raises(XPrunerError, match="has version 3 but this xpruner reads up to 2; update xpruner"):
        load(saved)


@pytest.mark.parametrize("changes", [{"format": "other"}, {"library": "flax"}])
def test_a_structure_of_another_kind(saved, changes):
    edit(saved, **changes)
    with pytest.raises(XPrunerError, match="not xpruner's for timm or transformers"):
        load(saved)


def test_an_architecture_that_timm_does_not_know(saved):
    edit(saved, architecture="vit_tiny_patch16_225")
    with pytest.raises(UsageError, match=r"'vit_tiny_patch16_225'; did you mean 'vit_tiny_patch16_224'\?"):
        load(saved)


def test_arguments_that_timm_no_longer_takes(saved):
    edit(saved, kwargs={"colour": "blue"}, made_with="0.9.0")
    with pytest.raises(XPrunerError, match=r"'colour'.*; save the model again, or use timm 0\.9\.0"):
        load(saved)


@pytest.mark.parametrize("units, message", [
    ({"blocks.0.attn:head": 1}, r"'blocks\.0\.attn\.qkv\.weight' has shape \(48, 24\), not \(24, 24\)"),
    ({"blocks.0.attn:head": 0}, r"'blocks\.0\.attn\.bias' is missing"),
    ({"blocks.0.attn:head": 4}, r"4 units in 'blocks\.0\.attn:head' where there are 3"),
    ({"blocks.9.attn:head": 2}, r"2 units in 'blocks\.9\.attn:head' where there are 0"),
])  # fmt: skip
def test_an_edited_structure_does_not_fit_the_weights(saved, units, message):
    edit(saved, units=read_structure(saved).units | units)
    with pytest.raises(XPrunerError, match=rf"does not fit its structure\.json in timm .*: {message}; save"):
        load(saved)


@pytest.mark.parametrize("count", [-1, 1.5, "2", True, None])
def test_a_count_of_units_that_is_none_is_damage(saved, count):
    edit(saved, units=read_structure(saved).units | {"blocks.0.attn:head": count})
    with pytest.raises(XPrunerError, match=rf"structure\.json cannot be read: .*a group has {count!r} units"):
        load(saved)


@pytest.mark.parametrize("changes", [{"top1": 1.5}, {"top1": "high"}, {"class_names": "abcde"}, {"biases": [1]}])
def test_what_has_another_type_or_range_is_damage(saved, changes):
    edit(saved, **changes)
    with pytest.raises(XPrunerError, match=r"structure\.json cannot be read: The structure is damaged"):
        load(saved)


def test_an_edited_bias_does_not_fit_the_model(saved):
    edit(saved, biases=["blocks.7.attn.proj"])
    with pytest.raises(XPrunerError, match=r"a bias for 'blocks\.7\.attn\.proj' where there is no linear layer"):
        load(saved)


def test_damaged_weights(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(XPrunerError, match=r"model\.safetensors is damaged .*; copy it again"):
        load(saved)


def test_weights_of_another_model(saved, tmp_path):
    save(tiny("vit"), tmp_path / "dense")
    shutil.copy(tmp_path / "dense" / "model.safetensors", saved)
    with pytest.raises(XPrunerError, match=r"'blocks\.0\.attn\.qkv\.weight' has shape \(72, 24\), not \(48, 24\)"):
        load(saved)
