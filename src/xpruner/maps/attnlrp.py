"""AttnLRP: layer-wise relevance for transformers, written as a modified gradient.

Every rule of the paper is a way to pass the gradient on: what is to count as a constant is detached, and where two
factors share the relevance of their product, each gets half the gradient. Input times that gradient is the relevance.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.layers import GluMlp, RmsNorm, SwiGLU
from torch import Tensor, nn

from xpruner.maps.anatomy import Anatomy, anatomy_of, refused
from xpruner.maps.attention import explicit_attention, on_attention
from xpruner.maps.registry import explained_score, register_map
from xpruner.runtime.outputs import logits_of

ACTIVATIONS = ("act", "activation_fn", "act_fn")
"""What MLPs of timm and of transformers call their activation."""


@register_map("attnlrp", by_pixel=True)
def attnlrp(model: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """Returns AttnLRP's relevance of every pixel, signed (Achtibat et al., ICML 2024, section 3).

    Linear layers by the epsilon rule with epsilon 0, norms with their standard deviation held constant, activations by
    the identity rule, products of two tensors by halves, softmax by its own gradient, which absorbs a part of the
    relevance. Biases and position embeddings absorb theirs too.

    Raises:
        UsageError: If the model cannot be read, a part of it has no rule, or a class does not exist.
    """
    anatomy = anatomy_of(model)
    with explicit_attention(model), relevance_rules(model, anatomy):
        logits = logits_of(model(images))
    (gradient,) = torch.autograd.grad(explained_score(logits, targets), images)
    return (gradient * images.detach()).sum(1)


@contextmanager
def relevance_rules(model: nn.Module, anatomy: Anatomy) -> Iterator[None]:
    """Makes the gradient of a forward pass that runs in the block a relevance; the output of the model is the same."""
    with ExitStack() as stack:
        for block in anatomy.attending:
            for handle in _on_products_of_attention(block.attention):
                stack.enter_context(handle)
        for path, module in model.named_modules():
            rule = _rule_of(path, module)
            if rule is not None:
                stack.enter_context(module.register_forward_hook(rule))
            if isinstance(module, GluMlp | SwiGLU) or hasattr(module, "gate_proj"):
                stack.enter_context(_halving_input(_last_layer(module)))
        yield


RelevanceRule = Callable[[Any, tuple, Tensor], Tensor]


def _rule_of(path: str, module: nn.Module) -> RelevanceRule | None:
    if isinstance(module, nn.LayerNorm):
        return _layer_norm
    if isinstance(module, RmsNorm):
        return _rms_norm
    if "Norm" in type(module).__name__:
        raise refused(f"{path!r}, a {type(module).__name__} for which AttnLRP has no rule here")
    return _identity_rule if path.rpartition(".")[2] in ACTIVATIONS else None


def _layer_norm(norm: Any, args: tuple, output: Tensor) -> Tensor:
    x = args[0]
    deviation = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
    return _passing(output, _scaled((x - x.mean(-1, keepdim=True)) / deviation, norm.weight))


def _rms_norm(norm: Any, args: tuple, output: Tensor) -> Tensor:
    x = args[0]
    deviation = (x.square().mean(-1, keepdim=True) + norm.eps).sqrt().detach()
    return _passing(output, _scaled(x / deviation, norm.weight))


def _scaled(x: Tensor, weight: Tensor | None) -> Tensor:
    return x if weight is None else x * weight


def _identity_rule(_activation: nn.Module, args: tuple, output: Tensor) -> Tensor:
    x = args[0]
    ratio = torch.where(x == 0, torch.zeros_like(x), output / x).detach()
    return _passing(output, ratio * x)


def _passing(value: Tensor, way: Tensor) -> Tensor:
    """Returns a value through which the gradient passes as through ``way``."""
    return value.detach() + (way - way.detach())


def _on_products_of_attention(attention: Any) -> list[Any]:
    """Halves for queries and keys at the probabilities: the softmax between them passes gradients on linearly."""
    if getattr(attention, "gate", None) is not None:
        raise refused("attention with a gate on its output")
    output = attention.proj if hasattr(attention, "proj") else attention.o_proj
    return [on_attention(attention, _halve), _halving_input(output)]


def _halving_input(layer: nn.Module) -> Any:
    """Halves the gradient behind the input of a layer; a hook on that input gets the whole relevance."""

    def read(_layer: nn.Module, args: tuple) -> tuple:
        half = args[0] / 2
        return half + half.detach(), *args[1:]

    return layer.register_forward_pre_hook(read)


def _halve(product: Tensor) -> None:
    if product.requires_grad:
        product.register_hook(lambda gradient: gradient / 2)


def _last_layer(gated: Any) -> nn.Module:
    return gated.fc2 if hasattr(gated, "fc2") else gated.down_proj
