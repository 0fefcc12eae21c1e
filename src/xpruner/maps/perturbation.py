"""Maps made from outside, by captum: they work on any classifier."""

import math
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from xpruner.errors import require
from xpruner.maps.anatomy import patch_convolution
from xpruner.maps.registry import explained_classes, register_map
from xpruner.runtime.outputs import logits_of


@register_map("integrated_gradients", by_pixel=True)
def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    baseline: float | Tensor = 0.0,
    steps: int = 32,
    batch_size: int = 32,
) -> Tensor:
    """Returns Integrated Gradients, signed, summed over the channels (Sundararajan et al. 2017, section 3).

    A map's sum is the explained logit less that of the baseline, but for the error of the sum over steps.

    Args:
        model: The classifier.
        images: (batch, channels, height, width).
        targets: (batch,) classes, or None.
        baseline: Where the path starts, one number or images that broadcast; 0 is the mean colour of normalised images.
        steps: Points on the path, by Gauss and Legendre.
        batch_size: Images that pass at once.

    Raises:
        UsageError: If captum is not installed, or a class does not exist.
    """
    ig = _captum("integrated_gradients").IntegratedGradients(_logits(model))
    attributions = ig.attribute(
        images,
        baselines=baseline.to(images) if isinstance(baseline, Tensor) else baseline,
        target=_targets(model, images, targets),
        n_steps=steps,
        internal_batch_size=max(batch_size, len(images)),
    )
    return attributions.sum(1)


@register_map("occlusion")
def occlusion(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    window: int | None = None,
    stride: int | None = None,
    baseline: float = 0.0,
    batch_size: int = 64,
) -> Tensor:
    """Returns by how much the explained logit falls when a window is covered, signed (Zeiler and Fergus 2014).

    Args:
        model: The classifier.
        images: (batch, channels, height, width).
        targets: (batch,) classes, or None.
        window: Side in pixels of the windows. By default a patch of the model; where patches are smaller than a 14th of
            the image's longer side, as in Swin, as many as reach it [our choice].
        stride: From one window to the next; by default they do not overlap. A pixel gets the mean over its windows.
        baseline: What a window is covered with; 0 is the mean colour of normalised images.
        batch_size: Images that pass at once.

    Raises:
        UsageError: If captum is not installed, or a class does not exist.
    """
    side = window or _window(model, images)
    attributions = (
        _captum("occlusion")
        .Occlusion(_logits(model))
        .attribute(
            images,
            sliding_window_shapes=(images.shape[1], side, side),
            strides=(images.shape[1], stride or side, stride or side),
            baselines=baseline,
            target=_targets(model, images, targets),
            perturbations_per_eval=max(1, batch_size // len(images)),
        )
    )
    return attributions[:, 0]  # the same in every channel


def _captum(method: str) -> ModuleType:
    return require("captum.attr", f"explain by {method!r}", "explain")


def _logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: logits_of(model(images))


@torch.no_grad()
def _targets(model: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    return explained_classes(logits_of(model(images)), targets)


def _window(model: nn.Module, images: Tensor) -> int:
    patches = patch_convolution(model)
    patch = max(patches.stride) if patches is not None else 1
    return patch * math.ceil(max(images.shape[-2:]) / 14 / patch)
