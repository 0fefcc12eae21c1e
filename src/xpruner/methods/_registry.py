"""What a pruning method is given and what it returns; methods are registered by name."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset

from xpruner.calibration.moments import Batches
from xpruner.calibration.rotate_heads import rotate_heads
from xpruner.config import RunConfig
from xpruner.errors import UsageError, unknown
from xpruner.files import reading, write_text, write_whole
from xpruner.plan.plan import Budget, Plan
from xpruner.training.search import OnStep
from xpruner.typed import typed
from xpruner.units import DEFAULT_KINDS, Units, offered_kinds

MASKS, DENSE_MASKS = "masks.safetensors", "masks_dense.safetensors"


@dataclass(frozen=True)
class Problem:
    """What a method is asked to solve; it leaves the model as it is.

    Attributes:
        model: The dense model.
        units: Its prunable groups.
        train: Training images with labels.
        calibration: A list of batches of training images without augmentation.
        num_classes: Of the labels.
        budget: The cost to meet.
        config: Seed, precision, batches and the method's own options.
        state_dir: Where the method keeps what it needs to go on after a stop; absent, nothing is kept.
        on_step: Called after every update with its number and figures.
    """

    model: nn.Module
    units: Units
    train: Dataset
    calibration: Batches
    num_classes: int
    budget: Budget
    config: RunConfig
    state_dir: Path | None = None
    on_step: OnStep | None = None


@dataclass(frozen=True)
class Outcome:
    """What a method found.

    Attributes:
        plan: Which units stay.
        masks: (classes, units) tables by group key; empty for a method that learns none.
        figures: What it logs, such as the leak.
        model: The pruned model as the search leaves it, where the search changes weights or more than units; absent,
            it is the dense model cut by the plan.
        dense_masks: The masks of the whole dense model, where ``masks`` holds some of a model that was cut meanwhile.
    """

    plan: Plan
    masks: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    model: nn.Module | None = None
    dense_masks: dict[str, Tensor] = field(default_factory=dict)


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Writes ``masks.safetensors`` (where there are masks), ``figures.json`` and, last, ``plan.json``; no model.

    Raises:
        XPrunerError: If the disk is full or the folder cannot be written.
    """
    write_masks(folder / MASKS, outcome.masks)
    write_text(folder / "figures.json", json.dumps(outcome.figures))
    outcome.plan.save(folder / "plan.json")


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
        units: The groups that each has to have a table, where they are known.
        classes: How many there are, where that is known.
        remedy: What helps where it cannot be read.

    Raises:
        XPrunerError: If the file is missing or no such tables, a mask is not from 0 to 1, or groups or classes are
            others than those of the run.
    """
    with reading(path, remedy or f"delete {path.parent}, and the same command makes it anew"):
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
    """Raises ValueError unless all shapes are of as many classes, and are those of the groups."""
    rows = classes or next(iter(found.values()), (0,))[0]
    wanted = {group.key: (rows, group.size) for group in units or ()} or {k: (rows, s[1]) for k, s in found.items()}
    if found.keys() != wanted.keys():
        raise ValueError(f"masks and model differ in {', '.join(sorted(found.keys() ^ wanted.keys()))}")
    for key, shape in found.items():
        if shape != wanted[key]:
            raise ValueError(f"{key} has the shape {shape}, but the run has {wanted[key]} (classes, units)")


def read_outcome(folder: Path) -> Outcome | None:
    """Reads what :func:`write_outcome` wrote; None where it was not finished.

    Raises:
        XPrunerError: If a file is damaged.
    """
    if not (folder / "plan.json").exists():
        return None
    masks, remedy = folder / MASKS, f"delete {folder}, and the same command makes it anew"
    with reading(folder / "figures.json", remedy):
        figures = typed(dict[str, Any], json.loads((folder / "figures.json").read_text(encoding="utf-8")))
    return Outcome(Plan.load(folder / "plan.json", remedy=remedy), read_masks(masks) if masks.exists() else {}, figures)


Search = Callable[[Problem], Outcome]
Check = Callable[[Problem], None]


@dataclass(frozen=True)
class Method:
    """A registered method; calling it searches.

    Attributes:
        name: Under which it is registered.
        search: From a problem to an outcome; the problem's model is left as it is.
        kinds: Kinds of unit that it was made for.
        plain: Whether its pruned model is a stock one that a plan describes, so that it can be saved.
        rotates: Whether heads whose dimensions it prunes are first turned, unless a run says otherwise.
        changes_weights: Whether its outcomes hold a model, whose weights are no longer the dense ones.
        check: Raises UsageError for a problem that it cannot solve, told by all but the images.
    """

    name: str
    search: Search
    kinds: tuple[str, ...] = DEFAULT_KINDS
    plain: bool = True
    rotates: bool = False
    changes_weights: bool = False
    check: Check = lambda problem: None

    def __call__(self, problem: Problem) -> Outcome:
        """Searches.

        Raises:
            UsageError: If the method cannot solve the problem.
            XPrunerError: If the search fails.
        """
        self.check(problem)
        return self.search(problem)


_methods: dict[str, Method] = {}


def register_method(name: str, kinds: tuple[str, ...] = DEFAULT_KINDS, **properties: Any) -> Callable[[Search], Search]:
    """Registers a method under its name; the arguments are those of :class:`Method`."""

    def register(search: Search) -> Search:
        _methods[name] = Method(name, search, kinds, **properties)
        return search

    return register


def find_method(name: str) -> Method:
    """Returns a registered method.

    Raises:
        UsageError: If the name is unknown; the nearest is named.
    """
    if name not in _methods:
        raise unknown("method", name, _methods)
    return _methods[name]


def kinds_for(config: RunConfig, dense: nn.Module) -> list[str]:
    """Returns the kinds of unit that a run asks for; absent, those of its method that the dense model offers.

    A search with compensated gradient steps knows heads and hidden units alone.
    """
    if config.units is not None:
        return config.units
    learned = config.method == "xpruner" and config.thresholds.steps > 0 and config.thresholds.compensated
    offered, wanted = offered_kinds(dense), DEFAULT_KINDS if learned else find_method(config.method).kinds
    return [kind for kind in wanted if kind in offered] or list(wanted)


def prepared(dense: nn.Module, batches: Batches, config: RunConfig) -> nn.Module:
    """Returns the dense model as a run's method wants it: a copy with its heads turned, or the model itself.

    Turning changes no output, only which dimensions can go together, see
    :func:`xpruner.calibration.rotate_heads.rotate_heads`.

    Args:
        dense: The dense model.
        batches: Calibration images; labels are not read.
        config: Of the run; ``rotate`` overrules the method.
    """
    wanted = find_method(config.method).rotates if config.rotate is None else config.rotate
    if not wanted or {"qk", "v"}.isdisjoint(kinds_for(config, dense)):
        return dense
    return rotate_heads(copy.deepcopy(dense), batches, config.precision)


def check_compensation(config: RunConfig) -> None:
    """Raises UsageError where a search changes weights and compensation would take them for the dense model's."""
    mode = config.compensate.mode
    if find_method(config.method).changes_weights and mode in ("affine", "mean"):
        raise UsageError(
            f"compensate.mode is {mode}, which fits the dense model's weights, but the search of {config.method!r} "
            "changes them; set it to sequential or none."
        )


def method_names() -> list[str]:
    """Returns the names of all registered methods, sorted."""
    return sorted(_methods)
