"""A finished run, opened again to be explained: its models, its masks, its plan and its images."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from xpruner.calibration.moments import Batches
from xpruner.config import DataConfig, RunConfig
from xpruner.config.files import read_config
from xpruner.config.typed import typed
from xpruner.data import ImageDataset, InputSpec, Splits, batches, load_data
from xpruner.data.fingerprint import fingerprints
from xpruner.data.lookup import HUB_NAMES
from xpruner.errors import UsageError
from xpruner.files import reading, write_text
from xpruner.masks.class_masks import Importance, reduce_classes
from xpruner.methods import find_method, kinds_for
from xpruner.methods._outcome_files import DENSE_MASKS, MASKS, read_masks
from xpruner.methods.xpruner.guard import GuardFigures, weighed
from xpruner.models.about import known_classes
from xpruner.models.checkpoint import load, read_structure
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.run.folder import how_to_restore
from xpruner.run.identity import first_difference, read_identity
from xpruner.run.metrics import METRICS, read_metrics
from xpruner.runtime.outputs import classes_of
from xpruner.training import predict
from xpruner.units import Units, find_units

log = logging.getLogger("xpruner")

BATCH = 128
DATA = "data.json"
"""Where a run's images lay when it was started, as absolute paths."""
UNSEEN = "unseen_classes"
"""Among the figures of the search, the classes that its masks have seen no image of; absent where there are none."""


@dataclass(frozen=True)
class FinishedRun:
    """What a run left, read when it is asked for.

    Attributes:
        folder: The run directory.
        config: Its configuration.
    """

    folder: Path
    config: RunConfig

    @cached_property
    def dense(self) -> nn.Module:
        """The dense model that the plan and the masks speak of, in eval mode.

        Raises:
            UsageError: If its folder holds no model.
            XPrunerError: If its files are damaged.
        """
        return load(self.folder / "dense").eval()

    @cached_property
    def pruned(self) -> nn.Module:
        """The model that the run handed back, in eval mode.

        Raises:
            UsageError: If its folder holds no model.
            XPrunerError: If its files are damaged.
        """
        return load(self.folder / "pruned").eval()

    @cached_property
    def units(self) -> Units:
        """The dense model's groups, of the kinds that the run pruned."""
        return find_units(self.dense, kinds_for(self.config, self.dense))

    @cached_property
    def budget(self) -> Budget:
        """What was asked for, as a share of the dense model's cost."""
        asked = Budget.parse(self.config.budget, self.config.round_to)
        return replace(asked, amount=asked.share(self.units))

    @cached_property
    def plan(self) -> Plan:
        """Which units were kept.

        Raises:
            XPrunerError: If its file is missing or damaged, or it was made for another model.
        """
        return Plan.load(self.folder / "plan.json", self.units, how_to_restore(self.folder))

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """The (classes, units) masks by group key that decided, each unit's from the last round that scored it.

        Raises:
            UsageError: If the run's method learned none.
            XPrunerError: If their file is missing or damaged, or they were made for another model.
        """
        if not (find_method(self.config.method).learns_masks or (self.folder / MASKS).exists()):
            raise UsageError(
                f"{self.folder} has no masks, as its method {self.config.method!r} learns none; "
                "`xpruner prune --method xpruner --output ANOTHER` makes a run that has."
            )
        return self._masks(MASKS)

    @cached_property
    def dense_masks(self) -> dict[str, Tensor]:
        """The (classes, units) masks by group key that speak of the dense model, before anything was cut.

        Raises:
            UsageError: If the run's method learned none.
            XPrunerError: If their file is damaged.
        """
        return self._masks(DENSE_MASKS) if (self.folder / DENSE_MASKS).exists() else self.masks

    @cached_property
    def guard(self) -> GuardFigures | None:
        """What the guard of the classes came to; None for a run without one, or one that did not keep it.

        Raises:
            XPrunerError: If the run's figures are damaged, or of another number of classes.
        """
        figures = self.search_figures.get("guard")
        with reading(self.folder / METRICS, how_to_restore(self.folder)):
            return GuardFigures.of(figures, classes_of(self.dense)) if figures else None

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The figures of the run's stages; empty where the run kept none.

        Raises:
            XPrunerError: If they are damaged.
        """
        return read_metrics(self.folder)

    @property
    def search_figures(self) -> dict[str, Any]:
        """What the run's method logged; empty where the run kept no figures.

        Raises:
            XPrunerError: If they are damaged.
        """
        return self.metrics.get("search", {})

    @property
    def unseen(self) -> set[int]:
        """The classes that the masks have seen no image of, whose rows tell nothing of them.

        Raises:
            XPrunerError: If the run's figures are damaged.
        """
        with reading(self.folder / METRICS, how_to_restore(self.folder)):
            return set(typed(list[int], self.search_figures.get(UNSEEN, []), UNSEEN))

    @property
    def importance_kind(self) -> Importance:
        """How the plan made one number of a unit's masks over the classes."""
        thresholds = self.config.thresholds
        return "abs_sum" if thresholds.mode == "global_rank" else thresholds.importance

    @cached_property
    def importance(self) -> dict[str, Tensor]:
        """The (units,) importance by group key as the plan saw it; where the guard gave classes weight, with that.

        Raises:
            UsageError: If the run has no masks.
            XPrunerError: If a file is missing or damaged.
        """
        if self.guard is not None and self.guard.changed:
            return weighed(self.masks, torch.tensor(self.guard.weights))
        return {key: reduce_classes(m, self.importance_kind) for key, m in self.masks.items()}

    def importance_to(self, labels: Sequence[int]) -> dict[str, Tensor]:
        """Returns the (units,) importance by group key to some classes.

        The guard's weights, which balance all classes against each other, are no part of it.

        Raises:
            UsageError: If the run has no masks.
            XPrunerError: If a file is missing or damaged.
        """
        return {key: reduce_classes(m[list(labels)], self.importance_kind) for key, m in self.masks.items()}

    @cached_property
    def class_names(self) -> list[str]:
        """The classes by label, as the dense model's folder has them; asked of the images where it has none."""
        return read_structure(self.folder / "dense").class_names or self.data.class_names

    @cached_property
    def data(self) -> Splits:
        """The run's images, with the dense model's transforms.

        Raises:
            UsageError: If they are not where they were when the run was started.
            XPrunerError: If they cannot be read.
        """
        data = load_data(self._data_config(), InputSpec.of(self.dense), self.config.seed, known_classes(self.dense))
        difference = first_difference(read_identity(self.folder), fingerprints(data))
        if difference:
            log.warning("The run in %s was made on %s; what is said of images may be untrue.", self.folder, difference)
        return data

    @property
    def images(self) -> ImageDataset:
        """Those that the run was measured on: held out for tuning where there are such, else the test images."""
        return self.data.measured

    def predictions_of(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Returns the classes that a model takes :attr:`images` for, and their labels, each (images,)."""
        loading: dict[str, Any] = {"batch_size": BATCH, "workers": self.config.data.workers}
        return predict(model, self.images, precision=self.config.precision, **loading)

    def some_images(self, count: int) -> tuple[list[int], Batches]:
        """Returns the numbers of at most ``count`` of :attr:`images`, evenly spread, and batches of them."""
        numbers = torch.linspace(0, len(self.images) - 1, min(count, len(self.images))).long().tolist()
        loader = batches(Subset(self.images, numbers), BATCH, seed=0, shuffle=False, workers=self.config.data.workers)
        return numbers, list(loader)

    def _data_config(self) -> DataConfig:
        """Returns which images, with the absolute paths of those that are still there."""
        path = self.folder / DATA
        if not path.exists():
            return self.config.data
        with reading(path, how_to_restore(self.folder)):
            places = typed(dict[str, str], json.loads(path.read_text(encoding="utf-8")))
            for option, place in places.items():
                if option not in ("root", "name") or not Path(place).is_absolute():
                    raise ValueError(f"{option} is {place!r}, but only root and name may be there, as absolute paths")
        return replace(self.config.data, **{option: place for option, place in places.items() if Path(place).is_dir()})

    def _masks(self, name: str) -> dict[str, Tensor]:
        return read_masks(self.folder / name, self.units, classes_of(self.dense), how_to_restore(self.folder))


def remember_data(config: RunConfig) -> None:
    """Writes where a run's images lie, so that it can be opened from any directory.

    Raises:
        XPrunerError: If the run directory cannot be written.
    """
    named = config.data.name in ("digits", *HUB_NAMES)
    places = {"root": config.data.root, "name": None if named else config.data.name}
    folders = {option: Path(place).expanduser().resolve() for option, place in places.items() if place}
    there = {option: str(folder) for option, folder in folders.items() if folder.is_dir()}
    if there:
        write_text(Path(config.output) / DATA, json.dumps(there))


def open_run(folder: str | Path) -> FinishedRun:
    """Opens a run directory.

    Raises:
        UsageError: If it is none, or the run is not finished.
        XPrunerError: If its configuration cannot be read.
    """
    folder = Path(folder).expanduser()
    path = folder / "config.yaml"
    if not path.exists():
        raise UsageError(f"{folder} is no run directory; give the --output of an `xpruner prune`.")
    if not (folder / "pruned" / "structure.json").exists():
        raise UsageError(f"The run in {folder} is not finished; the same `xpruner prune` command finishes it.")
    return FinishedRun(folder, replace(read_config(path), output=str(folder)))
