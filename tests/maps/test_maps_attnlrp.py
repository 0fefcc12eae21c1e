"""AttnLRP: each rule by hand, and where the relevance of a whole model goes."""

import pytest
import tiny_transformers
import torch
from timm.layers import GluMlp, RmsNorm, SwiGLU
from tiny_models import SWIN, VIT, build, tiny
from torch import Tensor, nn
from torch.testing import assert_close

from xpruner.errors import UsageError
from xpruner.maps import saliency
from xpruner.maps.anatomy import Anatomy, anatomy_of
from xpruner.maps.attention import explicit_attention, on_attention
from xpruner.maps.attnlrp import relevance_rules
from xpruner.plan.plan import Plan
from xpruner.runtime.outputs import logits_of
from xpruner.surgery import apply
from xpruner.units import find_units

NOTHING = Anatomy(nn.Conv2d(3, 1, 1), (), "", 0, ())


def relevance(module: nn.Module, x: Tensor, seed: Tensor) -> Tensor:
    """Returns the relevance of x, where that of the module's output is seed x output."""
    x = x.clone().requires_grad_()
    with relevance_rules(module, NOTHING):
        output = module(x)
    assert_close(output, module(x))
    return x.detach() * torch.autograd.grad((output * seed).sum(), x)[0]


def test_a_norm_counts_its_deviation_as_a_constant():
    norm = nn.LayerNorm(3, eps=0.0)
    norm.weight.data = torch.tensor([1.0, 2.0, 3.0])
    x = torch.tensor([1.0, 2.0, 6.0])  # mean 3, deviation sqrt(14 / 3)
    deviation = (14 / 3) ** 0.5
    got = relevance(norm, x, torch.tensor([0.0, 0.0, 1.0]))  # of y3 = 3 (x3 - (x1 + x2 + x3) / 3) / deviation
    assert_close(got, torch.tensor([-1.0, -2.0, 12.0]) / deviation)


def test_a_root_mean_square_norm_likewise():
    x = torch.tensor([3.0, 4.0, 0.0, 0.0])  # root mean square 2.5
    got = relevance(RmsNorm(4, eps=0.0), x, torch.tensor([1.0, 1.0, 1.0, 1.0]))
    assert_close(got, torch.tensor([1.2, 1.6, 0.0, 0.0]))


def test_an_activation_hands_all_its_relevance_on():
    mlp = nn.ModuleDict({"act": nn.GELU()})
    mlp.forward = mlp["act"].__call__
    x = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0])
    seed = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert_close(relevance(mlp, x, seed), seed * nn.functional.gelu(x))


@pytest.mark.parametrize("gated", [
    lambda: GluMlp(4, 6, bias=False, act_layer=nn.SiLU),
    lambda: SwiGLU(4, 6, bias=False),
    lambda: tiny_transformers.tiny("dinov2 swiglu").dinov2.encoder.layer[0].mlp,
])  # fmt: skip
def test_the_factors_of_a_gated_mlp_share_alike(gated):
    """Without biases, the halves of a product come back as one whole; plain gradients would count it twice."""
    mlp = gated()
    for module in mlp.modules():
        if isinstance(module, nn.Linear):
            module.bias = None
    x = torch.randn(5, next(iter(mlp.parameters())).shape[1])
    got = relevance(mlp, x, torch.ones(()))
    assert_close(got.sum(), mlp(x).sum(), rtol=1e-4, atol=1e-5)


def without_biases(name: str, **kwargs) -> nn.Module:
    """Returns a model in double precision whose logits are made of its patches alone."""
    model = build(name, **kwargs).double()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith("bias") or path.endswith(("pos_embed", "cls_token")):
                parameter.zero_()
    return model


def kept_by_softmax(model: nn.Module, images: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Returns the relevance of the pixels and what the softmax of all blocks keeps to itself.

    With a the probabilities, R their relevance and s their scores, s up to a number for each row is log a, to which the
    gradient of the softmax is blind; it hands on log a (R - a sum R).
    """
    anatomy, caught = anatomy_of(model), []
    with explicit_attention(model), relevance_rules(model, anatomy):
        handles = [on_attention(block.attention, caught.append) for block in anatomy.attending]
        score = logits_of(model(images))[:, target].sum()
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(score, [images, *caught])
    kept = torch.zeros(())
    for a, gradient in zip(caught, gradients[1:], strict=True):
        r = a * gradient
        handed_on = a.log() * (r - a * r.sum(-1, keepdim=True))
        kept = kept + r.sum() - handed_on.sum()
    return (images * gradients[0]).sum(), kept


@pytest.mark.parametrize("make", [
    lambda: without_biases("vit_tiny_patch16_224", **VIT),
    lambda: without_biases("vit_tiny_patch16_224", **VIT | dict(qk_norm=True)),
    lambda: without_biases("vit_tiny_patch16_224", **VIT | dict(global_pool="avg", init_values=0.5)),
])  # fmt: skip
def test_what_the_softmax_does_not_keep_reaches_the_pixels(make):
    """To 1e-9 in double precision, where all is exact but rounding and the norms' eps."""
    model = make()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    pixels, kept = kept_by_softmax(model, images, target=2)
    logit = model(images)[0, 2]
    assert kept.abs() > 1e-3 * logit.abs()
    assert_close(pixels + kept, logit, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "kwargs"), [
    ("vit_tiny_patch16_224", VIT | dict(global_pool="avg")), ("swin_tiny_patch4_window7_224", SWIN)
])  # fmt: skip
def test_without_softmax_all_relevance_reaches_the_pixels(name, kwargs):
    """Of a model that lost all its attention but one block's, which puts out 0."""
    model = without_biases(name, **kwargs)
    units = find_units(model)
    heads = [group.key for group in units if group.kind == "head"]
    model = apply(model, Plan.of(units, {key: [] for key in heads[:-1]}))
    anatomy = anatomy_of(model)
    (block,) = anatomy.attending
    with torch.no_grad():
        block.attention.proj.weight.zero_()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    maps = saliency(model, images, "attnlrp", torch.tensor([1, 4]))
    assert_close(maps.sum((1, 2)), model(images)[[0, 1], [1, 4]].float(), rtol=1e-5, atol=1e-5)


def test_the_two_factors_of_attention_share_alike():
    """Where the probabilities are all the same, their half of the relevance ends there; the values' goes on."""
    model = without_biases("vit_tiny_patch16_224", **VIT | dict(depth=1, class_token=False, global_pool="avg"))
    attention = model.blocks[0].attn
    with torch.no_grad():
        attention.qkv.weight[: 2 * 24].zero_()  # neither queries nor keys: probabilities of 1/16, which pass on nothing
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    caught = {}
    attention.register_forward_pre_hook(lambda _m, args: caught.update(read=args[0]))
    attention.proj.register_forward_hook(lambda _m, _a, output: caught.update(output=output))
    with explicit_attention(model), relevance_rules(model, anatomy_of(model)):
        score = model(images)[0, 3]
    of_read, of_output = torch.autograd.grad(score, [caught["read"], caught["output"]])
    whole = (caught["output"] * of_output).sum()
    assert whole.abs() > 1e-4
    assert_close((caught["read"] * of_read).sum(), whole / 2)


def test_the_model_computes_what_it_did():
    for model in (tiny("vit"), tiny("swin"), tiny_transformers.tiny("deit"), tiny_transformers.tiny("swin")):
        images = torch.randn(2, 3, 32, 32)
        with explicit_attention(model), relevance_rules(model, anatomy_of(model)):
            ruled = logits_of(model(images))
        assert_close(ruled, logits_of(model(images)), rtol=1e-4, atol=1e-5)


def test_what_has_no_rule_is_refused():
    gated = tiny("vit")
    gated.blocks[0].attn.gate = nn.Linear(24, 24)
    with pytest.raises(UsageError, match="cannot read attention with a gate on its output"):
        saliency(gated, torch.randn(1, 3, 32, 32), "attnlrp")
    normed = tiny("vit")
    normed.norm_pre = nn.BatchNorm1d(17)
    with pytest.raises(UsageError, match="cannot read 'norm_pre', a BatchNorm1d for which AttnLRP has no rule"):
        saliency(normed, torch.randn(1, 3, 32, 32), "attnlrp")
