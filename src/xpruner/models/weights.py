"""Weights from a file that training left, whatever it nests them in."""

import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from xpruner.checkpoint import first_difference
from xpruner.errors import UsageError, XPrunerError

NESTS = ("state_dict_ema", "state_dict", "model")
"""Keys under which training scripts put the weights; as in timm, averaged ones come first."""


def load_weights(model: Any, path: Path) -> None:
    """Gives a model of timm the weights in a file: safetensors, or a pickle read with ``weights_only=True``.

    Raises:
        UsageError: If there is no such file, or its weights are not those of this model.
        XPrunerError: If it is damaged.
    """
    if not path.is_file():
        raise UsageError(f"There is no checkpoint {path}; correct model.checkpoint.")
    weights = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    heads = model.pretrained_cfg.get("classifier") or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        classifier = weights.get(f"{head}.weight")
        if classifier is not None and len(classifier) != model.num_classes:
            raise UsageError(
                f"The checkpoint {path} has {len(classifier)} classes where the model has {model.num_classes}; "
                f"set model.num_classes to {len(classifier)} or give another checkpoint."
            )
    difference = first_difference(weights, model.state_dict())
    if difference:
        raise UsageError(
            f"The checkpoint {path} does not fit {model.pretrained_cfg['architecture']}: {difference}; "
            "give another checkpoint, or correct the model's name, img_size or kwargs."
        )
    model.load_state_dict(weights)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise XPrunerError(f"The checkpoint {path} is damaged ({error}); fetch it again.") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise XPrunerError(
            f"The checkpoint {path} holds more than tensors, or is damaged, and is not read; convert it to safetensors."
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        raise XPrunerError(f"The checkpoint {path} is damaged ({error}); fetch it again.") from error
    for nest in NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
            break
    named = isinstance(content, dict) and all(isinstance(x, str) and isinstance(y, Tensor) for x, y in content.items())
    if not named:
        raise UsageError(f"The checkpoint {path} holds no weights by name; give a file of a model's state_dict.")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}
