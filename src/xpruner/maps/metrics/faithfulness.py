"""How faithful explanation maps are: to the model (insertion and deletion) and to where the object lies (pointing game,
energy inside).

A map is the saliency of every pixel of one image for one class, (height, width); only its order counts for insertion,
deletion and the pointing game, also its values for the energy.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from xpruner.errors import UsageError, XPrunerError
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import logits_of

BLUR_KERNEL, BLUR_SIGMA = 11, 5.0
"""The blur, in pixels, that insertion starts from (RISE)."""


@dataclass(frozen=True, eq=False)
class ReplacementCurve:
    """How the probability of the target class moves while pixels are replaced, the most salient first.

    Attributes:
        shares: Share of the pixels that are replaced, 0 to 1, (steps + 1,).
        probabilities: Softmax probability of each image's target class, (batch, steps + 1).
    """

    shares: Tensor
    probabilities: Tensor

    @property
    def area(self) -> Tensor:
        """The area under each image's curve by the trapezoid rule, 0 to 1, (batch,)."""
        return torch.trapezoid(self.probabilities, self.shares, dim=1)


def deletion_auc(
    model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor | None = None, *, step: int = 224,
    batch_size: int = 64,
) -> Tensor:  # fmt: skip
    """Returns the area under every image's :func:`deletion_curve`, (batch,): lower is better; its arguments."""
    return deletion_curve(model, images, maps, targets, step=step, batch_size=batch_size).area


def insertion_auc(
    model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor | None = None, *, step: int = 224,
    batch_size: int = 64,
) -> Tensor:  # fmt: skip
    """Returns the area under every image's :func:`insertion_curve`, (batch,): higher is better; its arguments."""
    return insertion_curve(model, images, maps, targets, step=step, batch_size=batch_size).area


def deletion_curve(
    model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor | None = None, *, step: int = 224,
    batch_size: int = 64,
) -> ReplacementCurve:  # fmt: skip
    """Sets pixels to 0, the mean colour of normalised images, from the most salient to the least.

    Source: RISE (Petsiuk et al., BMVC 2018), causal metrics. Pixels of equal saliency follow in reading order. The
    model runs without gradients and in eval mode; each of its modules gets its own mode back.

    Args:
        model: Any classifier of timm or transformers, or a module that returns logits (batch, classes).
        images: Normalised, (batch, channels, height, width).
        maps: Their saliency, (batch, height, width).
        targets: Class of each image, (batch,); by default the one that the model predicts on the whole image.
        step: Pixels replaced between two points of the curve; the last step takes what is left.
        batch_size: Most images that go through the model at once.

    Raises:
        UsageError: If images, maps and targets do not fit each other, a map is not finite, or a number is below 1.
        XPrunerError: If the model returns NaN.
    """
    return _curve(_to_zeros, model, images, maps, targets, step, batch_size)


def insertion_curve(
    model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor | None = None, *, step: int = 224,
    batch_size: int = 64,
) -> ReplacementCurve:  # fmt: skip
    """Brings the pixels of a blurred image back, from the most salient to the least.

    The blur is Gaussian, with the image mirrored at its borders. Source, arguments and what it raises are those of
    :func:`deletion_curve`; besides, an image must have more pixels a side than half the kernel of the blur.
    """
    return _curve(_from_blur, model, images, maps, targets, step, batch_size)


def _to_zeros(images: Tensor) -> tuple[Tensor, Tensor]:
    return images, torch.zeros_like(images)


def _from_blur(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    least = BLUR_KERNEL // 2 + 1
    if min(height, width) < least:
        raise UsageError(
            f"Images of {height} x {width} pixels are too small for a blur with a kernel of {BLUR_KERNEL}; "
            f"give {least} pixels a side or more."
        )
    return gaussian_blur(images, [BLUR_KERNEL] * 2, [BLUR_SIGMA] * 2), images


@torch.no_grad()
def _curve(
    ends: Callable[[Tensor], tuple[Tensor, Tensor]], model: nn.Module, images: Tensor, maps: Tensor,
    targets: Tensor | None, step: int, batch_size: int,
) -> ReplacementCurve:  # fmt: skip
    """Returns the curve from the images with no pixel replaced to those with all, which ``ends`` makes."""
    _check_request(images, maps, step, batch_size)
    start, finish = ends(images)
    device = next(model.parameters(), images).device
    pixels = maps[0].numel()
    counts = torch.arange(0, pixels + step, step).clamp(max=pixels)
    places = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).view_as(maps)
    found = []
    with evaluating(model):
        targets = _targets(model, images, targets, batch_size, device)
        for point in torch.arange(len(images) * len(counts)).split(batch_size):
            image, count = point // len(counts), counts[point % len(counts)]
            replaced = (places[image] < count.to(places.device)[:, None, None])[:, None].to(images.device)
            mixed = torch.where(replaced, finish[image], start[image])
            found.append(_probabilities(model, mixed, device).gather(1, targets[image, None]).cpu())
    probabilities = torch.cat(found).view(len(images), len(counts))
    sound = probabilities.isfinite().all(dim=1)
    if not sound.all():
        raise XPrunerError(
            f"The model returns NaN for image {_first(~sound)} or a part of it; check its weights and that image."
        )
    return ReplacementCurve(counts / pixels, probabilities)


def _probabilities(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    return logits_of(model(images.to(device))).float().softmax(dim=-1)


def _targets(model: nn.Module, images: Tensor, targets: Tensor | None, batch_size: int, device: torch.device) -> Tensor:
    """Returns the class of each image, (batch,), on the device; by default the predicted one."""
    whole = torch.cat([_probabilities(model, part, device) for part in images.split(batch_size)])
    if targets is None:
        return whole.argmax(dim=-1)
    if targets.shape != (len(images),):
        raise UsageError(
            f"Targets of shape {tuple(targets.shape)} do not fit {len(images)} images; give one class each."
        )
    for target in targets.tolist():
        if not 0 <= target < whole.shape[1]:
            raise UsageError(f"There is no class {target}; the model's classes are 0 to {whole.shape[1] - 1}.")
    return targets.to(device, torch.long)


def _check_request(images: Tensor, maps: Tensor, step: int, batch_size: int) -> None:
    check_maps(maps)
    if images.ndim != 4 or (len(images), *images.shape[2:]) != tuple(maps.shape):
        raise UsageError(
            f"Maps of shape {tuple(maps.shape)} do not fit images of shape {tuple(images.shape)}; "
            "give one map (height, width) for each image (channels, height, width)."
        )
    for name, value in (("step", step), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"{name} {value} is too small; choose 1 or more.")


def check_maps(maps: Tensor) -> None:
    """Checks that maps can be scored.

    Raises:
        UsageError: If they are not (batch, height, width), there is no pixel, or one is not a finite number.
    """
    if maps.ndim != 3 or maps.numel() == 0:
        raise UsageError(
            f"Maps of shape {tuple(maps.shape)} cannot be scored; give (batch, height, width), none of them 0."
        )
    finite = maps.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise UsageError(
            f"The map of image {_first(~finite)} holds NaN or infinite values; leave that image out, "
            "or compute its map in single precision."
        )


def _first(found: Tensor) -> int:
    return int(found.nonzero()[0])


def pointing_hits(maps: Tensor, masks: Tensor, *, radius: float = 15) -> Tensor:
    """Returns which maps point at their object, (batch,) bool: a disc around the map's maximum touches the mask.

    Of several pixels that share the maximum the first in reading order points. Source: Zhang et al., "Top-Down Neural
    Attention by Excitation Backprop", IJCV 2018, the pointing game, with its tolerance of 15 pixels.

    Args:
        maps: Saliency, (batch, height, width).
        masks: True where the object is, (batch, height, width); :func:`box_masks` makes them from boxes.
        radius: Of the disc, in pixels between centres; a mask just as far away is touched.

    Raises:
        UsageError: If maps and masks differ in shape, a map is not finite, a mask has no pixel, or the radius is
            negative.
    """
    masks = _checked_masks(maps, masks)
    if not radius >= 0:
        raise UsageError(f"A disc of radius {radius} has no pixel; choose 0 or more.")
    height, width = maps.shape[1:]
    at = maps.flatten(1).argmax(dim=1)[:, None, None]
    rows = torch.arange(height, device=maps.device)[:, None] - at // width
    columns = torch.arange(width, device=maps.device) - at % width
    disc = rows.square() + columns.square() <= radius**2
    return (disc & masks).flatten(1).any(dim=1)


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Returns the share of each map's positive saliency that lies inside its mask, 0 to 1, (batch,).

    A map without positive saliency has none inside: 0. Source: the energy-based pointing game of Score-CAM (Wang et
    al., CVPR workshops 2020).

    Args:
        maps: Saliency, (batch, height, width).
        masks: True where the object is, (batch, height, width); :func:`box_masks` makes them from boxes.

    Raises:
        UsageError: If maps and masks differ in shape, a map is not finite, or a mask has no pixel.
    """
    masks = _checked_masks(maps, masks)
    positive = maps.double().clamp(min=0)
    total = positive.sum(dim=(1, 2))
    return (positive * masks).sum(dim=(1, 2)) / torch.where(total > 0, total, 1)


def _checked_masks(maps: Tensor, masks: Tensor) -> Tensor:
    check_maps(maps)
    if masks.shape != maps.shape:
        raise UsageError(
            f"Masks of shape {tuple(masks.shape)} do not fit maps of shape {tuple(maps.shape)}; give one mask a map."
        )
    masks = masks.to(maps.device, torch.bool)
    filled = masks.flatten(1).any(dim=1)
    if not filled.all():
        raise UsageError(f"The mask of image {_first(~filled)} has no pixel; leave out images without an object.")
    return masks


def box_masks(boxes: Sequence[Tensor] | Tensor, size: tuple[int, int]) -> Tensor:
    """Returns masks that are True on every pixel that one of an image's boxes touches, (batch, height, width).

    Args:
        boxes: For each image its boxes (x0, y0, x1, y1), (boxes, 4) or one (4,), in pixels from the upper left corner
            of the image; x1 and y1 are where a box ends, so (0, 0, 1, 1) is the first pixel alone.
        size: (height, width) of the images.

    Raises:
        UsageError: If there are no boxes, they have another shape, or a box is empty or reaches out of its image.
    """
    if len(boxes) == 0:
        raise UsageError("There are no boxes; give those of one image at least.")
    return torch.stack([box_mask(found, size, image) for image, found in enumerate(boxes)])


def box_mask(boxes: Tensor, size: tuple[int, int], image: int) -> Tensor:
    """Returns the mask (height, width) of one image's boxes; errors name it by its number ``image``.

    Boxes, size and errors are those of :func:`box_masks`.
    """
    height, width = size
    if boxes.numel() == 0 or boxes.shape[-1] != 4:
        raise UsageError(
            f"The boxes of image {image} have the shape {tuple(boxes.shape)}; give (boxes, 4), at least one."
        )
    mask = torch.zeros(height, width, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes.reshape(-1, 4).tolist():
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UsageError(
                f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) of image {image} does not lie in {width} x {height} "
                "pixels; give x0 < x1 and y0 < y1 inside the image, clipped and scaled as the image was."
            )
        mask[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)] = True
    return mask
