"""What a run belongs to, as checksums: its dense model, its teacher, and its images; others are refused by name."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xpruner.config.typed import typed
from xpruner.errors import UsageError
from xpruner.files import reading, write_text
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import logits_of

IDENTITY = "identity.json"
Identity = dict[str, Any]
"""By subject (``model``, ``teacher NAME``, ``training images``, ``test images``) what it is known by, as JSON."""
LOGITS = 16
"""So many outputs for one fixed image are kept: equal weights may compute other things."""
TOLERANCE = 1e-4
"""Of the largest of them: other machines round otherwise."""


def model_identity(model: nn.Module, size: tuple[int, int, int]) -> dict[str, Any]:
    """Returns what a model is known by: its class, a checksum of its weights, and outputs for one fixed image.

    Args:
        model: A classifier; it is left as it is.
        size: (channels, height, width) of its images.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()))
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # masked autoencoders hide patches at random
        logits = logits_of(model(image)).float().flatten()[:LOGITS].tolist()
    return {"class": type(model).__name__, "weights": digest.hexdigest()[:16], "outputs": logits}


def check_identity(folder: Path, now: Identity) -> None:
    """Compares what is at hand with what a run directory belongs to, and writes nothing.

    Raises:
        UsageError: If it belongs to another model or other images; the first difference is named.
        XPrunerError: If the file is damaged.
    """
    difference = first_difference(read_identity(folder), now)
    if difference:
        raise UsageError(f"{folder} belongs to a run of {difference}; choose another output, or give what it had.")


def note_identity(folder: Path, now: Identity) -> None:
    """Notes in a run directory what the run belongs to, beside what it did before, such as an earlier teacher.

    Raises:
        XPrunerError: If the file is damaged or cannot be written.
    """
    before = read_identity(folder)
    if before != (noted := {**before, **now}):
        write_text(folder / IDENTITY, json.dumps(noted, indent=1))


def read_identity(folder: Path) -> Identity:
    """Returns what a run belongs to; nothing where it was not noted.

    Raises:
        XPrunerError: If the file is damaged.
    """
    path = folder / IDENTITY
    if not path.exists():
        return {}
    with reading(path, "delete it, and the run belongs to what is given then"):
        return typed(dict[str, dict[str, Any]], json.loads(path.read_text(encoding="utf-8")))


def in_short(identity: Identity) -> Identity:
    """Returns an identity without its lists, such as the names of all classes, which the checksums cover."""
    return {
        subject: {name: value for name, value in known.items() if not isinstance(value, list)}
        for subject, known in identity.items()
    }


def first_difference(before: Identity, now: Identity) -> str | None:
    """Returns in words in what the subjects that both know first differ; None where they are the same."""
    for subject in now:
        for name, value in now[subject].items():
            was = before.get(subject, {}).get(name, value)
            if not _same(was, value):
                return f"{_other(subject)} ({_in_words(name, was, value)})"
    return None


def _same(was: Any, value: Any) -> bool:
    numbers = isinstance(value, list) and all(isinstance(number, float) for number in value)
    if not (numbers and isinstance(was, list) and len(was) == len(value)):
        return was == value
    most = max(map(abs, value), default=0.0)
    return all(math.isclose(a, b, rel_tol=0, abs_tol=TOLERANCE * most) for a, b in zip(was, value, strict=True))


def _other(subject: str) -> str:
    return f"other {subject}" if subject.endswith("images") else f"another {subject}"


def _in_words(name: str, was: Any, value: Any) -> str:
    """Returns how what a subject is known by differs: two values, or the first place where two lists do."""
    if not isinstance(value, list) or not isinstance(was, Sequence):
        return f"{name} {was}, now {value}"
    if name == "outputs":
        return "the same weights, but other outputs"
    if len(was) != len(value):
        return f"{len(was)} {name}, now {len(value)}"
    place = next(n for n, pair in enumerate(zip(was, value, strict=True)) if pair[0] != pair[1])
    return f"{name}: number {place} is {was[place]!r}, now {value[place]!r}"
