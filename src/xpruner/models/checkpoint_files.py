"""Reads the weights in a checkpoint file by name; any other file is refused with a sentence that identifies it."""

import argparse
import logging
import pathlib
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from timm.models import clean_state_dict
from torch import Tensor

from xpruner.errors import UsageError, XPrunerError

log = logging.getLogger("xpruner")

NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts put the weights; as in timm's ``load_state_dict``, averaged ones are preferred."""
STARTS = {
    b"version https://git-lfs": "a pointer of git-LFS in place of the file; run git lfs pull",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes it; give the weights as safetensors",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
}
"""First bytes of files that are mistaken for checkpoints, with what they are and the remedy."""
HEAD = 1024
"""Number of bytes that identify a file."""

_SCALAR, _RECONSTRUCT = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    defaultdict,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "u4", "?", "U1")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_RECONSTRUCT, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
"""Harmless types that training scripts store beside the weights: arguments, paths, numbers of numpy."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the weights in a file by name, as timm's ``load_state_dict`` finds them.

    It reads safetensors, whatever the file's name, and pickles of tensors with ``weights_only=True``. Averaged weights
    are preferred; the prefixes of DistributedDataParallel and of ``torch.compile`` are removed.

    Raises:
        UsageError: If there is no such file, or it is something else.
        XPrunerError: If it is damaged.
    """
    if not path.is_file():
        raise UsageError(f"There is no checkpoint {path}; correct model.checkpoint.")
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise XPrunerError(f"The checkpoint {path} is damaged: it is empty; fetch it again.")
    _refuse_others(path, head)
    if path.suffix == ".safetensors" or _is_safetensors(head):
        return clean_state_dict(_read_safetensors(path))
    return clean_state_dict(_nested(path, _read_pickle(path)))


def _refuse_others(path: Path, head: bytes) -> None:
    """Raises UsageError where a file holds no tensors; the message identifies it."""
    text = head.lstrip().lower()
    kind = next((kind for start, kind in STARTS.items() if head.startswith(start)), None)
    if kind is None and text.startswith((b"<!doctype html", b"<html")):
        kind = "a web page; download the file itself, not the page about it"
    elif kind is None and _is_text(head):
        kind = "text; give a file of weights"
    if kind:
        raise UsageError(f"The checkpoint {path} is {kind}.")


def _is_text(head: bytes) -> bool:
    try:
        return all(character.isprintable() or character.isspace() for character in head.decode())
    except UnicodeDecodeError as error:
        return error.start > HEAD - 4 and _is_text(head[: error.start])  # cut within a character


def _is_safetensors(head: bytes) -> bool:
    """Returns whether a file starts with a length and a header in JSON."""
    return head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 100_000_000


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise XPrunerError(f"The checkpoint {path} is damaged ({error}); fetch it again.") from error


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = _code_in(path)
        what = f"code ({code})" if code else "more than tensors, or is damaged"
        raise XPrunerError(
            f"The checkpoint {path} holds {what}, as a whole pickled module does, and is not read; where it can be "
            "trusted, convert it to safetensors of its state_dict()."
        ) from error
    except Exception as error:  # unpickling bytes that are not a pickle raises nearly anything
        if "TorchScript" in str(error):
            raise UsageError(
                f"The checkpoint {path} is a TorchScript archive, which is code; give a file of its state_dict()."
            ) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise XPrunerError(f"The checkpoint {path} is damaged, or none ({reason}); fetch it again.") from error


def _code_in(path: Path) -> str:
    """Returns the names of the first classes and functions in a pickle that would have to run."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # older formats and damaged files have no list
        return ""
    return ", ".join(names[:3])


def _nested(path: Path, content: Any) -> dict[str, Tensor]:
    """Returns the weights in what a pickle holds; where there are several, the choice is logged."""
    keys = list(content) if isinstance(content, dict) else []
    nests = [key for key in NESTS if key in keys and (content[key] is not None or key in NESTS[2:])]
    if len(nests) > 1:
        log.info("%s holds %s; %r is read, as in timm.", path, " and ".join(map(repr, nests)), nests[0])
    weights = content[nests[0]] if nests else content
    if not _is_named(weights):
        held = f" but {', '.join(map(str, keys[:6]))}" if keys else ""
        raise UsageError(f"The checkpoint {path} holds no weights by name{held}; give a file of a model's state_dict.")
    return weights


def _is_named(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items())
    )
