"""A finished run, opened again to be explained: its models, its masks, its plan and its images."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Subset

from xpruner.checkpoint import load
from xpruner.config import RunConfig
from xpruner.data import ImageDataset, InputSpec, Splits, batches, load_data
from xpruner.errors import UsageError, XPrunerError
from xpruner.methods.base import DENSE_MASKS, MASKS, kinds_for
from xpruner.moments import Batches
from xpruner.plan import Plan
from xpruner.units import Units, find_units

Options = TypeVar("Options")
BATCH = 128


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
        """The dense model that the plan and the masks speak of, in eval mode."""
        return load(self.folder / "dense").eval()

    @cached_property
    def pruned(self) -> nn.Module:
        """The model that the run handed back, in eval mode."""
        return load(self.folder / "pruned").eval()

    @cached_property
    def units(self) -> Units:
        """The dense model's groups, of the kinds that the run pruned."""
        return find_units(self.dense, kinds_for(self.config, self.dense))

    @cached_property
    def plan(self) -> Plan:
        """Which units stayed."""
        return Plan.load(self.folder / "plan.json")

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """The (classes, units) masks by group key that decided, each unit's from when it was last looked at.

        Raises:
            UsageError: If the run's method learned none.
        """
        path = self.folder / MASKS
        if not path.exists():
            raise UsageError(
                f"{self.folder} has no masks, as its method {self.config.method!r} learns none; "
                "`xpruner prune --method xpruner --output ANOTHER` makes a run that has."
            )
        return load_file(path)

    @cached_property
    def dense_masks(self) -> dict[str, Tensor]:
        """The (classes, units) masks by group key that speak of the dense model, before anything was cut.

        Raises:
            UsageError: If the run's method learned none.
        """
        path = self.folder / DENSE_MASKS
        return load_file(path) if path.exists() else self.masks

    @cached_property
    def data(self) -> Splits:
        """The run's images, with the dense model's transforms."""
        return load_data(self.config.data, InputSpec.of(self.dense), self.config.seed)

    @property
    def images(self) -> ImageDataset:
        """Those that the run was measured on: held out for tuning where there are such, else the test images."""
        return self.data.test if self.data.val is None else self.data.val

    def some_images(self, count: int) -> tuple[list[int], Batches]:
        """Returns the numbers of at most ``count`` of :attr:`images`, evenly spread, and batches of them."""
        numbers = torch.linspace(0, len(self.images) - 1, min(count, len(self.images))).long().tolist()
        loader = batches(Subset(self.images, numbers), BATCH, seed=0, shuffle=False, workers=self.config.data.workers)
        return numbers, list(loader)


def open_run(folder: str | Path) -> FinishedRun:
    """Opens a run directory.

    Raises:
        UsageError: If it is none, or the run is not finished.
        XPrunerError: If its configuration cannot be read.
    """
    folder = Path(folder)
    path = folder / "config.yaml"
    if not path.exists():
        raise UsageError(f"{folder} is no run directory; give the --output of an `xpruner prune`.")
    if not (folder / "pruned" / "structure.json").exists():
        raise UsageError(f"The run in {folder} is not finished; the same `xpruner prune` command finishes it.")
    try:
        return FinishedRun(folder, _restored(RunConfig, {**yaml.safe_load(path.read_text()), "output": str(folder)}))
    except (yaml.YAMLError, TypeError, OSError) as error:
        raise XPrunerError(f"{path} cannot be read ({error}); it is the configuration of the run.") from error


def _restored(options: type[Options], values: dict[str, Any]) -> Options:
    """Returns a dataclass, and those in it, from nested plain values; what is not there keeps its default."""
    kinds = get_type_hints(options)
    return options(**{
        name: _restored(kinds[name], value) if dataclasses.is_dataclass(kinds.get(name)) else value
        for name, value in values.items()
    })  # fmt: skip
