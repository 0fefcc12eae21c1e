"""The methods that explain a prediction by a map over the image, by name, and the class that a map explains."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xpruner.errors import UsageError, unknown
from xpruner.registry import Registry

Explain = Callable[..., Tensor]
"""Takes a frozen model in eval mode, images (batch, channels, height, width) that require a gradient, targets (batch,)
or None, and options of its own by name; returns maps (batch, height, width)."""


@dataclass(frozen=True)
class MapMethod:
    """A method and what its maps are.

    Attributes:
        explain: Makes the maps.
        of_class: Whether a map explains one class; else it does not depend on the class.
        by_pixel: Whether every pixel has a value of its own; else the patches have.
    """

    explain: Explain
    of_class: bool = True
    by_pixel: bool = False


MAPS: Registry[MapMethod] = Registry("explanation method", "xpruner.maps")
_GIVEN = ("model", "images", "targets")


def register_map(name: str, *, of_class: bool = True, by_pixel: bool = False) -> Callable[[Explain], Explain]:
    """Registers an :data:`Explain` under a name, with the properties of its maps, as :class:`MapMethod` has them.

    Raises:
        UsageError: If another method has that name.
    """

    def register(explain: Explain) -> Explain:
        MAPS.add(name, MapMethod(explain, of_class, by_pixel), explain)
        return explain

    return register


def list_maps() -> list[str]:
    """Returns the names of all methods, sorted, with those of installed packages."""
    return MAPS.names()


def find_map(name: str, options: Mapping[str, Any] | None = None) -> MapMethod:
    """Returns a method by its name, once it is known to take the options.

    Raises:
        UsageError: For an unknown method or option.
    """
    method = MAPS.find(name)
    offered = [option for option in inspect.signature(method.explain).parameters if option not in _GIVEN]
    for option in options or ():
        if not offered:
            raise UsageError(f"The explanation method {name!r} has no options; leave {option!r} out.")
        if option not in offered:
            raise unknown(f"option of {name!r}", option, offered)
    return method


def explained_classes(logits: Tensor, targets: Tensor | None) -> Tensor:
    """Returns the (batch,) classes to explain: those asked for, or those that the model predicts.

    Raises:
        UsageError: If there is not one known class for each image, or the model is no image classifier.
    """
    if logits.ndim != 2:
        raise UsageError(f"The model puts out logits of shape {tuple(logits.shape)}; give an image classifier.")
    if targets is None:
        return logits.argmax(-1)
    batch, classes = logits.shape
    if targets.shape != (batch,):
        raise UsageError(f"Targets of shape {tuple(targets.shape)} for {batch} images; give one class for each image.")
    if targets.is_floating_point() or targets.min() < 0 or targets.max() >= classes:
        raise UsageError(f"Targets must be whole numbers from 0 to {classes - 1}; given were {targets.tolist()}.")
    return targets.to(logits.device).long()


def explained_score(logits: Tensor, targets: Tensor | None) -> Tensor:
    """Returns the sum over the batch of the explained logits; its gradient keeps the samples apart."""
    return logits.gather(1, explained_classes(logits, targets)[:, None]).sum()
