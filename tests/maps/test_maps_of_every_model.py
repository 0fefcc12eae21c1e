"""What holds for every method on every family of models, dense and pruned."""

import subprocess
import sys

import pytest
import tiny_transformers
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from tiny_models import VIT, build, footprint, tiny, units_of
from torch import nn
from torch.testing import assert_close

from xpruner.errors import UsageError
from xpruner.maps import list_maps, saliency
from xpruner.plan.plan import Plan
from xpruner.runtime.outputs import logits_of
from xpruner.surgery import apply
from xpruner.units import find_units

INSIDE = ["attnlrp", "gradcam", "relevance", "rollout"]


def uneven(model: nn.Module, kinds: tuple[str, ...]) -> nn.Module:
    """Prunes to another number of units in every other group."""
    units = find_units(model, kinds)
    keep = {group.key: list(range(group.size // 2 + number % 2 or 1)) for number, group in enumerate(units)}
    return apply(model, Plan.of(units, keep))


def emptied(name: str) -> nn.Module:
    """Takes the attention of the first block, the MLP of the second, and narrows the last attention."""
    units = find_units(tiny(name), ("head", "hidden", "v"))
    heads, hidden = ([group.key for group in units if group.kind == kind] for kind in ("head", "hidden"))
    keep = {heads[0]: [], hidden[1]: [], heads[-1].replace(":head", ":v"): [0, 2]}
    return apply(tiny(name), Plan.of(units, keep))


MODELS = {
    "vit": lambda: tiny("vit"),
    "vit, post-norm": lambda: tiny("vit_post_norm"),
    "vit, pruned": lambda: uneven(tiny("vit_without_biases"), ("head", "hidden")),
    "vit, emptied": lambda: emptied("vit"),
    "deit, distilled, pruned": lambda: uneven(tiny("deit_distilled"), ("head", "embed", "qk")),
    "deit3": lambda: tiny("deit3_layer_scale"),
    "swin": lambda: tiny("swin"),
    "swin, padded, pruned": lambda: uneven(tiny("swin_padded_windows"), ("head", "hidden", "qk", "v")),
    "swin, emptied": lambda: emptied("swin"),
    "transformers vit": lambda: tiny_transformers.tiny("vit classifier"),
    "transformers vit, pruned": lambda: uneven(tiny_transformers.tiny("vit classifier"), ("head", "hidden")),
    "transformers deit": lambda: tiny_transformers.tiny("deit"),
    "transformers deit, distilled": lambda: tiny_transformers.tiny("deit distilled"),
    "transformers dinov2, pruned": lambda: uneven(tiny_transformers.tiny("dinov2 swiglu"), ("head", "hidden")),
    "transformers dinov2, registers": lambda: tiny_transformers.tiny("dinov2 registers"),
    "transformers swin": lambda: tiny_transformers.tiny("swin"),
    "transformers swin, pruned": lambda: uneven(tiny_transformers.tiny("swin"), ("head", "hidden")),
}


def images_for(name: str, count: int = 3) -> torch.Tensor:
    return torch.randn(count, *(units_of("swin_padded_windows").input_size if "padded" in name else (3, 32, 32)))


def test_every_map_registers_itself():
    assert list_maps() == ["attnlrp", "gradcam", "integrated_gradients", "occlusion", "relevance", "rollout"]


@pytest.mark.parametrize("method", list_maps())
@pytest.mark.parametrize("name", MODELS)
def test_an_image_has_its_own_map_whatever_else_is_in_the_batch(name, method):
    model, images = MODELS[name](), images_for(name)
    maps = saliency(model, images, method)
    assert maps.shape == (3, *images.shape[-2:]) and maps.dtype == torch.float32 and not maps.requires_grad
    assert maps.isfinite().all() and (maps.flatten(1).std(1) > 0).any()
    alone = saliency(model, images[1:2], method)
    assert_close(maps[1:2], alone, rtol=1e-3, atol=1e-4 * alone.abs().max().item() + 1e-12)


def state(model: nn.Module) -> tuple:
    parameters = [(path, p.requires_grad, p.grad) for path, p in model.named_parameters()]
    flags = [getattr(module, "fused_attn", None) for module in model.modules()]
    return footprint(model), parameters, flags, getattr(getattr(model, "config", None), "_attn_implementation", None)


@pytest.mark.parametrize("method", list_maps())
@pytest.mark.parametrize("name", ["vit", "swin", "transformers vit", "transformers swin"])
def test_nothing_is_left_behind(name, method):
    model, images = MODELS[name](), images_for(name)
    logits_of(model(images))  # transformers' Swin narrows its windows in its first pass
    model.train()
    next(model.parameters()).requires_grad_(False)
    list(model.modules())[3].eval()
    for attention in [module for module in model.modules() if hasattr(module, "fused_attn")][:1]:
        attention.fused_attn = False
    before, copy = state(model), images.clone()
    saliency(model, images, method)
    assert state(model) == before
    assert torch.equal(images, copy) and not images.requires_grad


class Broken(Exception):
    pass


@pytest.mark.parametrize("method", list_maps())
@pytest.mark.parametrize("name", ["vit", "swin", "transformers vit", "transformers swin"])
def test_nothing_is_left_behind_by_an_exception(name, method):
    model, images = MODELS[name](), images_for(name)
    logits_of(model(images))

    def fail(_module, _args, _output):
        raise Broken

    last = list(model.modules())[-1]
    handle = last.register_forward_hook(fail)
    before = state(model)
    with pytest.raises(Broken):
        saliency(model, images, method)
    assert state(model) == before
    handle.remove()
    assert saliency(model, images, method).isfinite().all()


@pytest.mark.parametrize("method", list_maps())
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_gradient_checkpointing_changes_nothing(name, method):
    model, images = tiny(name), torch.randn(2, 3, 32, 32)
    wanted = saliency(model, images, method)
    model.set_grad_checkpointing()
    assert_close(saliency(model, images, method), wanted)
    assert [module.grad_checkpointing for module in model.modules() if hasattr(module, "grad_checkpointing")][-1]


@pytest.mark.parametrize("method", list_maps())
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_any_grad_mode_will_do(method, mode):
    model, images = tiny("vit"), torch.randn(2, 3, 32, 32)
    wanted = saliency(model, images, method)
    with mode():
        assert torch.equal(saliency(model, images.clone(), method), wanted)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("method", sorted(set(list_maps()) - {"rollout"}))
def test_what_the_model_predicts_is_explained_by_default(method):
    model, images = tiny("vit"), torch.randn(2, 3, 32, 32)
    predicted = model(images).argmax(1)
    maps = saliency(model, images, method)
    assert torch.equal(maps, saliency(model, images, method, predicted))
    assert not torch.allclose(maps, saliency(model, images, method, (predicted + 1) % 5))


def test_rollout_knows_no_class():
    model, images = tiny("vit"), torch.randn(2, 3, 32, 32)
    zero, one = (saliency(model, images, "rollout", torch.full((2,), target)) for target in (0, 1))
    assert torch.equal(zero, one)


@pytest.mark.parametrize("method", INSIDE)
@pytest.mark.parametrize(("make", "what"), [
    (lambda: tiny_transformers.tiny("beit"), "a BeitForImageClassification"),
    (lambda: nn.Sequential(nn.Conv2d(3, 5, 32), nn.Flatten()), "a Sequential"),
    (lambda: pooled_by_attention(), "a classifier that pools its tokens by 'map'"),
    (lambda: all_attention_gone(), "a VisionTransformer without any attention left"),
    (lambda: parallel(), "'blocks.0', a ParallelScalingBlock"),
])  # fmt: skip
def test_other_models_are_refused_by_name(make, what, method):
    model = make()
    with pytest.raises(UsageError) as error:
        saliency(model, torch.randn(1, 3, 32, 32), method)
    assert str(error.value) == (
        f"This explanation method cannot read {what}; "
        "use 'integrated_gradients' or 'occlusion', which work on any classifier."
    )
    assert saliency(model, torch.randn(1, 3, 32, 32), "occlusion", window=16).isfinite().all()


def pooled_by_attention() -> nn.Module:
    return build("vit_tiny_patch16_224", **VIT | dict(global_pool="map", class_token=False))


def parallel() -> nn.Module:
    return build("vit_tiny_patch16_224", **VIT | dict(block_fn=ParallelScalingBlock))


def all_attention_gone() -> nn.Module:
    return apply(tiny("vit"), Plan.of(units_of("vit"), {f"blocks.{block}.attn:head": [] for block in (0, 1)}))


@pytest.mark.parametrize(("asked", "message"), [
    (dict(method="relevence"), "Unknown explanation method 'relevence'; did you mean 'relevance'?"),
    (dict(method="gradcam", layers="x"), "Unknown option of 'gradcam' 'layers'; did you mean 'layer'?"),
    (dict(method="rollout", layer="x"), "The explanation method 'rollout' has no options; leave 'layer' out."),
    (dict(targets=torch.tensor([1])), "Targets of shape (1,) for 2 images; give one class for each image."),
    (dict(targets=torch.tensor([0, 5])), "Targets must be whole numbers from 0 to 4; given were [0, 5]."),
    (dict(targets=torch.tensor([0.0, 1.0])), "Targets must be whole numbers from 0 to 4; given were [0.0, 1.0]."),
])  # fmt: skip
def test_wrong_requests_are_refused_in_one_sentence(asked, message):
    with pytest.raises(UsageError) as error:
        saliency(tiny("vit"), torch.randn(2, 3, 32, 32), **asked)
    assert str(error.value) == message


def test_images_must_be_a_batch():
    with pytest.raises(UsageError, match=r"Images of shape \(3, 32, 32\); give \(batch, channels, height, width\)"):
        saliency(tiny("vit"), torch.randn(3, 32, 32))


def test_models_without_classes_are_refused():
    with pytest.raises(UsageError, match=r"logits of shape \(1, 2, 8, 8\); give an image classifier"):
        saliency(tiny_transformers.tiny("segformer segmentation"), torch.randn(1, 3, 32, 32), "occlusion")


def test_neither_captum_nor_transformers_is_imported():
    code = (
        "import sys, xpruner.units, xpruner.maps; "
        "print([name for name in ('captum', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
