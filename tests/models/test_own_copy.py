"""A module that the caller has at hand: what becomes of it, and what it may be."""

import logging

import pytest
import torch
import transformers
from run_and_die import tiny_run
from tiny_models import footprint, tiny
from torch import nn

import xpruner
from xpruner.config import DataConfig, FinetuneConfig
from xpruner.errors import UsageError
from xpruner.models.own_copy import own_copy

FEW = dict(
    data=DataConfig("digits", train_size=64, test_size=32, calibration_size=32), rounds=1, latency=[], precision="fp32",
    finetune=FinetuneConfig(steps=1),
)  # fmt: skip


def hf_config(**changes) -> transformers.ViTConfig:
    return transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=16, patch_size=4,
        num_labels=10, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_copy_is_in_float32_and_eval_mode_and_the_original_as_it_was(caplog, dtype):
    model = tiny("vit").train().requires_grad_(False)
    model.blocks[1].eval()
    model.blocks[0].to(dtype)
    before, kinds = footprint(model), [parameter.dtype for parameter in model.parameters()]
    with caplog.at_level(logging.INFO, "xpruner"):
        mine = own_copy(model)
    assert {parameter.dtype for parameter in mine.parameters()} == {torch.float32}
    assert not any(module.training for module in mine.modules())
    assert torch.equal(mine.blocks[0].attn.proj.weight, model.blocks[0].attn.proj.weight.float())
    assert footprint(model) == before
    assert [parameter.dtype for parameter in model.parameters()] == kinds
    assert not any(parameter.requires_grad for parameter in model.parameters())
    name = str(dtype).removeprefix("torch.")
    assert f"the VisionTransformer has weights in {name}; they are read in float32." in caplog.text


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_models_that_do_not_choose_one_class_are_refused(kind):
    model = transformers.ViTForImageClassification(hf_config(problem_type=kind))
    with pytest.raises(UsageError, match=rf"ViTForImageClassification has the problem_type '{kind}', but .*one class"):
        own_copy(model)
    own_copy(transformers.ViTForImageClassification(hf_config(problem_type="single_label_classification")))


def test_a_module_of_transformers_in_half_precision_is_pruned_and_loaded_in_float32(tmp_path):
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(hf_config()).half()
    result = xpruner.prune(model, output=tmp_path / "run", **FEW)
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.float32}
    assert '"dtype": "float16"' not in (result.folder / "pruned" / "structure.json").read_text()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


def small(**arguments) -> nn.Module:
    import timm

    torch.manual_seed(0)
    sizes = dict(img_size=16, num_classes=10, patch_size=4, embed_dim=24, depth=2, num_heads=3)
    return timm.create_model("vit_tiny_patch16_224", **sizes | arguments)


@pytest.mark.parametrize("arguments", [
    {"global_pool": "avg"},
    {"class_token": False, "global_pool": "avg", "reg_tokens": 2},
    {"no_embed_class": True, "num_heads": 6},
    {"qk_norm": True, "act_layer": "quick_gelu", "init_values": 0.1},
])  # fmt: skip
@pytest.mark.parametrize("recorded", [True, False])
def test_modules_made_with_any_arguments_are_pruned_and_pruned_again(tmp_path, arguments, recorded):
    """With and without timm's own record of the arguments, which its earlier versions do not keep."""
    model = small(**arguments).train()
    if not recorded:
        vars(model).pop("_model_args", None)
    before = footprint(model)
    once = xpruner.prune(model, output=tmp_path / "once", **FEW)
    assert footprint(model) == before
    loaded = xpruner.load(once.folder / "pruned")
    twice = xpruner.prune(loaded, output=tmp_path / "twice", **FEW)
    again = xpruner.load(twice.folder / "pruned")
    assert xpruner.count_macs(again) == pytest.approx(0.25 * xpruner.count_macs(model), rel=0.02)
    xpruner.save(again, tmp_path / "copy")
    assert again.state_dict().keys() == xpruner.load(tmp_path / "copy").state_dict().keys()


def test_what_cannot_be_deduced_can_be_given(tmp_path):
    model = small(mlp_ratio=2.5, act_layer="celu")
    vars(model).pop("_model_args", None)
    with pytest.raises(UsageError, match=r"its outputs differ; pass the arguments that made it as kwargs="):
        xpruner.prune(model, output=tmp_path / "run", **FEW)
    made_with = dict(img_size=16, num_classes=10, patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.5)
    result = xpruner.prune(model, output=tmp_path / "run", kwargs=made_with | {"act_layer": "celu"}, **FEW)
    assert isinstance(xpruner.load(result.folder / "pruned").blocks[0].mlp.act, nn.CELU)
    with pytest.raises(UsageError, match=r"kwargs= is what a module was made with; for a name give ModelConfig"):
        xpruner.prune("vit_tiny_patch16_224", output=tmp_path / "other", kwargs=made_with, **FEW)


def test_a_head_that_training_put_there_is_counted(tmp_path):
    model = small(num_classes=1000)
    model.head = nn.Linear(24, 10)
    assert model.num_classes == 1000
    result = xpruner.prune(model, output=tmp_path / "run", **FEW)
    assert xpruner.load(result.folder / "pruned").num_classes == 10


@pytest.mark.parametrize("spoil, message", [
    (lambda model: nn.Sequential(model), r"pass model\[0\] itself"),
    (lambda model: model.to("meta"), "is on the meta device"),
])  # fmt: skip
def test_a_refused_module_stays_as_it_was(tmp_path, spoil, message):
    model = spoil(small().train())
    before = footprint(model)
    with pytest.raises(UsageError, match=message):
        xpruner.prune(model, output=tmp_path / "run", **FEW)
    assert footprint(model) == before


def test_a_module_stays_as_it_was_when_the_run_fails(tmp_path):
    model = small(num_classes=7).train()
    before = footprint(model)
    with pytest.raises(UsageError, match="7 classes"):
        xpruner.prune(model, tiny_run("").data, output=tmp_path / "run")
    assert footprint(model) == before
