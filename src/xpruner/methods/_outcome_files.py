"""Masks and outcomes of a search on disk."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from xpruner.config.typed import typed
from xpruner.files import reading, write_text, write_whole
from xpruner.methods._problem import Outcome
from xpruner.plan.plan import Plan
from xpruner.units import Units

MASKS, DENSE_MASKS = "masks.safetensors", "masks_dense.safetensors"


def write_masks(path: Path, masks: dict[str, Tensor]) -> None:
    """Writes (classes, units) tables by group key as safetensors, where there are any.

    Raises:
        XPrunerError: If the disk is full or the folder cannot be written.
    """
    if masks:
        content = safetensors.torch.save(masks)
        write_whole(path, lambda temporary: temporary.write_bytes(content))


def read_masks(
    path: Path, units: Units | None = None, classes: int | None = None, remedy: str = ""
) -> dict[str, Tensor]:
    """Reads (classes, units) tables by group key, as :func:`write_masks` wrote them.

    Args:
        path: Of the file.
        units: The groups, each of which must have a table; absent where they are not known.
        classes: Number of classes; absent where it is not known.
        remedy: The remedy if it cannot be read, for the message.

    Raises:
        XPrunerError: If the file is missing or not such tables, a mask is not from 0 to 1, or groups or classes differ
            from those of the run.
    """
    with reading(path, remedy or f"delete {path.parent}, and the same command creates it again"):
        try:
            masks = safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        for key, m in masks.items():
            if not m.is_floating_point() or m.ndim != 2:
                raise ValueError(f"{key} is {m.dtype} of shape {tuple(m.shape)}, but must be (classes, units) masks")
            if not ((m.float() >= 0) & (m.float() <= 1)).all():  # nan is neither
                raise ValueError(f"{key} holds a mask that is not from 0 to 1")
        _check_shapes({key: tuple(m.shape) for key, m in masks.items()}, units, classes)
        return masks


def _check_shapes(found: dict[str, tuple[int, ...]], units: Units | None, classes: int | None) -> None:
    """Raises ValueError unless all shapes have the same number of classes and match the groups."""
    rows = classes or next(iter(found.values()), (0,))[0]
    wanted = {group.key: (rows, group.size) for group in units or ()} or {k: (rows, s[1]) for k, s in found.items()}
    if found.keys() != wanted.keys():
        raise ValueError(f"masks and model differ in {', '.join(sorted(found.keys() ^ wanted.keys()))}")
    for key, shape in found.items():
        if shape != wanted[key]:
            raise ValueError(f"{key} has the shape {shape}, but the run has {wanted[key]} (classes, units)")


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Writes ``masks.safetensors`` (where there are masks), ``figures.json`` and, last, ``plan.json``; no model.

    Raises:
        XPrunerError: If the disk is full or the folder cannot be written.
    """
    write_masks(folder / MASKS, outcome.masks)
    write_text(folder / "figures.json", json.dumps(outcome.figures))
    outcome.plan.save(folder / "plan.json")


def read_outcome(folder: Path) -> Outcome | None:
    """Reads what :func:`write_outcome` wrote; None where it was not finished.

    Raises:
        XPrunerError: If a file is damaged.
    """
    if not (folder / "plan.json").exists():
        return None
    masks, remedy = folder / MASKS, f"delete {folder}, and the same command creates it again"
    with reading(folder / "figures.json", remedy):
        figures = typed(dict[str, Any], json.loads((folder / "figures.json").read_text(encoding="utf-8")))
    return Outcome(Plan.load(folder / "plan.json", remedy=remedy), read_masks(masks) if masks.exists() else {}, figures)
