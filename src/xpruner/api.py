"""The main job in one call: everything the command line does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from xpruner.config import DataConfig, ModelConfig, RunConfig
from xpruner.config import preset as preset_of
from xpruner.config.files import from_dict
from xpruner.errors import UsageError
from xpruner.plan.budget import Budget
from xpruner.run.pipeline import PruneResult, run_pipeline


def prune(
    model: nn.Module | str | Path | ModelConfig,
    data: str | Path | DataConfig = "digits",
    budget: float | str | Budget = 0.5,
    *,
    preset: str = "default",
    output: str | Path = "runs/xpruner",
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
        preset: ``default`` or ``paper``.
        output: The run directory; called again with the same arguments, the run goes on where it was stopped.
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
    config = replace(
        asked,
        budget=f"{amount.resource}:{amount.amount!r}",
        round_to=dict(amount.round_to),
        output=str(output),
        units=asked.units if units is None else [units] if isinstance(units, str) else list(units),
        data=DataConfig(name=str(data)) if isinstance(data, str | Path) else data,
    )
    if isinstance(model, nn.Module):
        return run_pipeline(config, model, kwargs)
    if kwargs is not None:
        raise UsageError("kwargs= says what a module was made with; for a name give ModelConfig(name, kwargs=...).")
    named = ModelConfig(name=str(model)) if isinstance(model, str | Path) else model
    return run_pipeline(replace(config, model=named))
