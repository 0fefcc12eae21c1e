"""How an image becomes the input of a model: size, crop, interpolation and normalisation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.data import resolve_model_data_config
from torch import nn

from xpruner.errors import UsageError
from xpruner.measure.macs import input_size


@dataclass(frozen=True)
class InputSpec:
    """The input that a model expects.

    Attributes:
        size: (height, width) in pixels.
        mean: Of each channel, for pixels in 0..1.
        std: Of each channel, for pixels in 0..1.
        interpolation: ``bicubic``, ``bilinear`` or ``lanczos``.
        crop_pct: Side of the crop over the side of the resized image; 1.0 for no crop.
        crop_mode: How other aspect ratios are handled, in timm's words: ``center``, ``squash`` or ``border``.
        channels: Input channels of the first layer.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    channels: int = 3

    def __post_init__(self) -> None:
        """Raises UsageError where no image could be prepared this way."""
        for name, values in (("size", self.size), ("std", self.std), ("crop_pct", (self.crop_pct,))):
            if not all(math.isfinite(value) and value > 0 for value in values):
                raise UsageError(f"The preprocessing has {name} {getattr(self, name)}; it must be finite and above 0.")
        if not all(map(math.isfinite, self.mean)):
            raise UsageError(f"The preprocessing has mean {self.mean}; it must be finite.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return (self.channels, *self.size)

    def __str__(self) -> str:
        """Describes it in one line."""
        crop = (
            f"{self.crop_mode} crop {self.crop_pct:.4g}"
            if self.crop_pct != 1 or self.crop_mode != "center"
            else "whole"
        )
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{self.size[1]} x {self.size[0]} px, {self.interpolation}, {crop}, mean {mean}, std {std}"

    @classmethod
    def of(cls, model: nn.Module) -> "InputSpec":
        """Reads the input of a model of timm or transformers.

        Notes on the model (``models.about``), such as its own preprocessing, take precedence. Otherwise the size that
        the model was built for takes precedence over that of its published weights. The crop belongs to those weights:
        with another size, or without published weights, images are not cropped.
        """
        noted = getattr(getattr(model, "xpruner_about", None), "input", None)
        if noted is not None:
            return noted
        config = resolve_model_data_config(model)
        published = getattr(model, "pretrained_cfg", None) or {}
        published_size = tuple(config["input_size"][1:])
        channels, height, width = input_size(model)
        size = (height, width)
        as_published = size == published_size and any(published.get(key) for key in ("url", "hf_hub_id", "file"))
        return cls(
            size=size,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"] if as_published else 1.0,
            crop_mode=config["crop_mode"],
            channels=channels,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON values under the keys of timm's ``pretrained_cfg``, which can be updated with it."""
        return {
            "input_size": [self.channels, *self.size],
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "InputSpec":
        """Reads what ``to_dict`` wrote; other keys, such as those of a whole ``pretrained_cfg``, are ignored."""
        channels, height, width = config["input_size"]
        return cls(
            size=(height, width),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            crop_mode=config["crop_mode"],
            channels=channels,
        )
