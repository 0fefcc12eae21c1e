"""Reads the preprocessing of a model of transformers as an InputSpec, verified against its own processor."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xpruner.data.spec import InputSpec
from xpruner.data.transforms import Plain
from xpruner.errors import UsageError, require

log = logging.getLogger("xpruner")

FILES = ("preprocessor_config.json", "processor_config.json")
INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers, as processors write them, and timm's names."""
BY_HAND = "give model.mean, model.std, model.interpolation, model.crop_pct and model.crop_mode"
CONVNEXT_WHOLE, LEVIT_MARGIN = 384, 256 / 224
"""Side in pixels from which ConvNeXt's processor does not crop; factor by which LeViT's resizes beyond its crop."""
MEAN_TOLERANCE, MOST_TOLERANCE = 0.5, 8.0
"""Tolerance in levels of 255: implementations round differently; another kernel, crop or offset changes far more."""


def read_preprocessing(place: str, local: bool) -> InputSpec | None:
    """Returns the preprocessing of a model of transformers; None, with a warning, where none is stored.

    Args:
        place: A folder, or a name on the hub.
        local: Whether it is a folder, which is read without the network.

    Raises:
        UsageError: If its processor cannot be read, or does what timm's resizing, cropping and normalising cannot.
    """
    if local and not any((Path(place) / name).is_file() for name in FILES):
        log.warning(
            "%s has no %s; mean, std and crop of ImageNet are used. If it was trained with others, %s.",
            place, FILES[0], BY_HAND,
        )  # fmt: skip
        return None
    library = require("transformers", "load this model")
    try:
        processor = library.AutoImageProcessor.from_pretrained(place, trust_remote_code=False, local_files_only=local)
    except Exception as error:  # from the hub, or from transformers about a file that it cannot read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UsageError(
            f"The image processor of {place} cannot be read ({reason}); correct it, or {BY_HAND}."
        ) from error
    name = type(processor).__name__
    try:
        spec = of_processor(processor.to_dict(), name)
        differs = _difference(spec, processor)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(f"The {name} of {place} cannot be reproduced ({error}); {BY_HAND}.") from error
    if differs:
        raise UsageError(
            f"The {name} of {place} prepares images in a way that cannot be reproduced ({differs}); {BY_HAND}."
        )
    return spec


def of_processor(config: Mapping[str, Any], name: str = "") -> InputSpec:
    """Returns the preprocessing that the configuration of an image processor describes.

    Args:
        config: As in ``preprocessor_config.json``, with the defaults of its class.
        name: Of the class, for processors whose resizing no key describes.

    Raises:
        KeyError, TypeError, ValueError: If a required key is missing.
    """
    size = config["size"]
    squash = "height" in size
    resized = (int(size["height"]), int(size["width"])) if squash else (int(size["shortest_edge"]),) * 2
    crop = config.get("crop_size") if config.get("do_center_crop") else None
    wanted = (int(crop["height"]), int(crop["width"])) if crop else resized
    if name.startswith("ConvNext"):
        squash = resized[0] >= CONVNEXT_WHOLE
        resized = resized if squash else (int(resized[0] / config["crop_pct"]),) * 2
    elif name.startswith("Levit"):
        resized, wanted = (int(LEVIT_MARGIN * resized[0]),) * 2, wanted if crop else resized
    elif not squash and crop is None:
        raise ValueError("it makes images of different sizes")
    scale = 255 * (config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1)
    normalised = config.get("do_normalize", True)
    mean, std = (config["image_mean"], config["image_std"]) if normalised else ([0.0] * 3, [1.0] * 3)
    return InputSpec(
        size=wanted,
        mean=tuple(float(value) / scale for value in mean),
        std=tuple(float(value) / scale for value in std),
        interpolation=INTERPOLATIONS[int(config["resample"])],
        crop_pct=crop_share(wanted[0], resized[0]),
        crop_mode="squash" if squash else "center",
    )


def to_processor(spec: InputSpec) -> dict[str, Any] | None:
    """Returns the ``preprocessor_config.json`` with which transformers prepares images the same way; None where it
    cannot."""
    if spec.crop_mode == "border" or (spec.crop_mode == "center" and spec.size[0] != spec.size[1]):
        return None
    height, width = (math.floor(side / spec.crop_pct) for side in spec.size)
    squash = spec.crop_mode == "squash"
    return {
        "image_processor_type": "DeiTImageProcessor" if squash else "BitImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width} if squash else {"shortest_edge": height},
        "resample": next(number for number, name in INTERPOLATIONS.items() if name == spec.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": spec.size[0], "width": spec.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def crop_share(wanted: int, resized: int) -> float:
    """Returns the crop_pct with which timm, which rounds down, resizes to exactly this many pixels before the crop."""
    share = wanted / resized
    return share if math.floor(wanted / share) == resized else wanted / (resized + 0.25)


def _difference(spec: InputSpec, processor: Any) -> str | None:
    """Compares on a landscape and a portrait image; describes what differs by more than rounding, or returns None."""
    scale = 255 * torch.tensor(spec.std).view(-1, 1, 1)
    for width, height in ((331, 257), (257, 331)):
        image = _scene(width, height)
        wanted = torch.as_tensor(np.asarray(processor(image, return_tensors="pt")["pixel_values"][0]))
        ours = Plain(spec)(image)
        if wanted.shape != ours.shape:
            return f"{tuple(wanted.shape)} instead of {tuple(ours.shape)}"
        levels = ((ours - wanted) * scale).abs()
        if levels.mean() > MEAN_TOLERANCE or levels.max() > MOST_TOLERANCE:
            return f"pixels differ by {levels.mean():.1f} of 255 levels"
    return None


def _scene(width: int, height: int) -> Image.Image:
    """Returns a smooth picture in which every place and every channel looks different."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
