"""Models for tests: small, with parameters that all matter, and what a test may compare of them."""

from typing import Any

import timm
import torch
from torch import nn

SIDE, CLASSES = 32, 5
"""Of the images and labels of a small model."""
SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def stir(model: nn.Module, amount: float = 0.1) -> nn.Module:
    """Adds noise to all parameters of a model, and draws the statistics of its batch norms; returns the model.

    The biases and position tables of a fresh model are zero, or nearly so: whether they were cut would not show.

    Args:
        model: Is changed in place.
        amount: Standard deviation of the noise.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=amount)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model


def small_vit(name: str = "vit_tiny_patch16_224", **changes: Any) -> nn.Module:
    """Returns a stirred ViT for five classes of 32-pixel images, in eval mode: milliseconds a pass.

    Args:
        name: Another ViT of timm.
        **changes: Arguments of ``timm.create_model``.
    """
    sizes = {"img_size": SIDE, "num_classes": CLASSES, **SMALL, **changes}
    return stir(timm.create_model(name, **sizes).eval())


def set_fused(model: nn.Module, fused: bool) -> bool:
    """Makes the attention of a timm model fused or not, and returns whether it has attention that can be either."""
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "fused_attn")]
    for module in modules:
        module.fused_attn = fused
    return bool(modules)


def footprint(model: nn.Module) -> dict[str, Any]:
    """Returns of every module, by path, its mode and its attributes, of those with hooks how many there are."""
    return {
        path: (module.training, [(name, len(value) if "hooks" in name else 0) for name, value in vars(module).items()])
        for path, module in model.named_modules()
    }
