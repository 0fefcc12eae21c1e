"""Loads the weights of a training checkpoint into a model of timm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
from torch import Tensor

from xpruner.errors import UsageError, XPrunerError
from xpruner.models.checkpoint import first_difference
from xpruner.models.checkpoint_files import read_weights
from xpruner.models.tensors import check_tensors, in_float32

ARRAYS = (".npz", ".npy")


def stored_weights(path: Path) -> dict[str, Tensor] | None:
    """Returns the weights in a file by name; None for arrays of JAX, which timm itself reads into a model.

    Raises:
        UsageError: If there is no such file, or it holds no weights.
        XPrunerError: If it is damaged.
    """
    return None if path.suffix.lower() in ARRAYS and path.is_file() else read_weights(path)


def classes_in(weights: Mapping[str, Tensor], name: str) -> int | None:
    """Returns the number of classes of some weights, for a model of timm of this name."""
    published = timm.get_pretrained_cfg(name)
    classifiers = (weights.get(f"{head}.weight") for head in _heads(published.classifier if published else None))
    return next((len(classifier) for classifier in classifiers if classifier is not None), None)


def load_weights(model: Any, path: Path, weights: Mapping[str, Tensor] | None) -> None:
    """Loads the weights of a file into a model of timm: every format of timm's ``load_checkpoint``, read the same way.

    Args:
        model: Filled in place.
        path: Of the file.
        weights: As from :func:`stored_weights`.

    Raises:
        UsageError: If the weights are not those of this model.
        XPrunerError: If the file is damaged.
    """
    if weights is None:
        _load_arrays(model, path)
        return
    for head in _heads(model.pretrained_cfg.get("classifier")):
        classifier = weights.get(f"{head}.weight")
        if classifier is not None:
            _check_classes(path, len(classifier), model.num_classes)
    difference = first_difference(weights, model.state_dict())
    if difference:
        raise UsageError(
            f"The checkpoint {path} does not fit {model.pretrained_cfg['architecture']}: {difference}; "
            "give another checkpoint, or correct the model's name, img_size or kwargs."
        )
    _fill(model, weights, path)


def _fill(model: Any, weights: Mapping[str, Tensor], path: Path) -> None:
    where = f"the checkpoint {path}"
    check_tensors(weights, dict(model.named_parameters()), where)
    model.load_state_dict(in_float32(weights, where))


def _load_arrays(model: Any, path: Path) -> None:
    """Loads the arrays of a checkpoint of JAX as timm does, which leaves a classifier of other classes random."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            heads = [len(arrays[name]) for name in arrays.files if name.endswith("head/bias")]
        _check_classes(path, heads[0] if heads else 0, model.num_classes)
        model.load_pretrained(str(path))
    except UsageError:
        raise
    except Exception as error:  # other arrays raise nearly anything
        raise XPrunerError(
            f"timm cannot read the arrays in {path} into this model ({error}); convert them to safetensors."
        ) from error


def _heads(classifier: str | Sequence[str] | None) -> tuple[str, ...]:
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())


def _check_classes(path: Path, given: int, wanted: int) -> None:
    """Raises UsageError where a checkpoint has another number of classes; no remedy may shift labels."""
    if given != wanted:
        raise UsageError(
            f"The checkpoint {path} has {given} classes where {wanted} are requested; if the data should have {given}, "
            "look for labels that start at 1, a class folder that is empty or not read, or a stray folder such as "
            "__MACOSX, else give a checkpoint that was trained on these classes."
        )
