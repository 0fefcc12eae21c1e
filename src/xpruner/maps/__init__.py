"""Explanation maps over the image: what the model attends to, and which pixels its logit depends on."""

from typing import Any

import torch
from torch import Tensor, nn

from xpruner.errors import UsageError
from xpruner.maps.anatomy import patch_convolution
from xpruner.maps.registry import find_map, list_maps, register_map
from xpruner.registry import import_submodules
from xpruner.runtime.modes import frozen

__all__ = ["find_map", "grid_of", "list_maps", "register_map", "saliency"]

import_submodules(__name__)


def saliency(
    model: nn.Module, images: Tensor, method: str = "relevance", targets: Tensor | None = None, **options: Any
) -> Tensor:
    """Returns a map for each image of what the model's prediction depends on.

    ``gradcam``, ``rollout``, ``relevance`` and ``attnlrp`` read the inside of timm's ViT, DeiT and Swin and of ViT,
    DeiT, DINOv2 and Swin of transformers, dense or pruned; ``integrated_gradients`` and ``occlusion`` work on any
    classifier and need captum. The model is left exactly as it was.

    Args:
        model: The classifier.
        images: (batch, channels, height, width), normalised as the model takes them; on any device.
        method: Its name.
        targets: (batch,) the classes to explain; absent, what the model predicts. Of no effect on ``rollout``.
        **options: Of the method: ``layer`` of gradcam; ``baseline``, ``steps`` and ``batch_size`` of
            integrated_gradients; ``window``, ``stride``, ``baseline`` and ``batch_size`` of occlusion.

    Returns:
        (batch, height, width) float32 on the CPU. Maps of integrated_gradients, attnlrp and occlusion are signed.

    Raises:
        UsageError: For an unknown method, option or class, a model that the method cannot read, or missing captum.
    """
    explain = find_map(method, options).explain
    if images.ndim != 4 or not len(images):
        raise UsageError(f"Images of shape {tuple(images.shape)}; give (batch, channels, height, width), one at least.")
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        device = next(model.parameters(), images).device
        images = images.detach().to(device, copy=True).requires_grad_()
        return explain(model, images, targets, **options).detach().float().cpu()


def grid_of(model: nn.Module, method: str, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (rows, columns) of the positions that a method scores: pixels, or the model's patches.

    Args:
        model: The classifier.
        method: Of the maps.
        size: (height, width) of the images.

    Raises:
        UsageError: For an unknown method.
    """
    patches = patch_convolution(model)
    if find_map(method).by_pixel or patches is None:
        return size
    return size[0] // patches.stride[0], size[1] // patches.stride[1]
