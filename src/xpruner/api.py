"""The main job in one call: everything the command line does."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from xpruner.config import DataConfig, ModelConfig, RunConfig
from xpruner.config import preset as preset_of
from xpruner.config.files import from_dict
from xpruner.errors import UsageError
from xpruner.plan.budget import Budget
from xpruner.run.folder import fresh_folder
from xpruner.run.pipeline import PruneResult, run_pipeline


def prune(
    model: nn.Module | str | Path | ModelConfig,
    data: str | Path | DataConfig = "digits",
    budget: float | str | Budget = 0.5,
    *,
    preset: str = "default",
    output: str | Path | None = None,
    units: Sequence[str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> PruneResult:
    """Prunes a trained vision transformer to a budget, compensates and fine-tunes it.

    Args:
        model: The dense model: a module, a timm name, a folder written by :func:`xpruner.save`, or a ModelConfig. A
            module stays as it is, whatever happens: its weights, types, devices and modes.
        data: The images: a name or path as in DataConfig, or a DataConfig.
        budget: What the pruned model may cost: a fraction, or ``600M``, ``2.4G``, ``params:0.5``, ...
        preset: One of :func:`xpruner.list_presets`.
        output: The run directory; called again with the same arguments, the run continues where it was stopped. Absent,
            a new one under ``runs``, which the result names.
        units: Kinds of unit to prune; absent, those of the preset.
        kwargs: The arguments of ``timm.create_model`` that made a module, where they cannot be deduced from it.
        **options: Any other field of :class:`xpruner.config.RunConfig`, such as ``seed``; its parts, such as
            ``finetune``, as dataclasses or as dicts of what differs from the preset.

    Returns:
        The pruned model, its plan, the masks, the figures of every stage and the run directory.

    Raises:
        UsageError: If the request cannot be met.
        XPrunerError: If a stage fails; the same call continues the run.
    """
    asked = from_dict(RunConfig, options, preset_of(preset))
    amount = Budget.parse(budget, asked.round_to)
    if not isinstance(model, nn.Module):
        if kwargs is not None:
            raise UsageError("kwargs= is what a module was made with; for a name give ModelConfig(name, kwargs=...).")
        asked = replace(asked, model=ModelConfig(name=str(model)) if isinstance(model, str | Path) else model)
    folder = fresh_folder() if output is None else Path(output)
    config = replace(
        asked,
        budget=f"{amount.resource}:{amount.amount!r}",
        round_to=dict(amount.round_to),
        output=str(folder),
        units=asked.units if units is None else [units] if isinstance(units, str) else list(units),
        data=DataConfig(name=str(data)) if isinstance(data, str | Path) else data,
    )
    try:
        return run_pipeline(config, model if isinstance(model, nn.Module) else None, kwargs)
    finally:
        if output is None:
            with suppress(OSError):  # only an empty folder can be removed: one of a run that was refused
                folder.rmdir()
