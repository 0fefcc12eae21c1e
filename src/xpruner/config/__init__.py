"""Every option of a run, and the presets that give them their defaults."""

from xpruner.config.options import (
    CompensateConfig,
    DataConfig,
    FinetuneConfig,
    MaskConfig,
    ModelConfig,
    RunConfig,
    SearchConfig,
    ThresholdConfig,
)
from xpruner.config.presets import list_presets, preset

__all__ = [
    "CompensateConfig",
    "DataConfig",
    "FinetuneConfig",
    "MaskConfig",
    "ModelConfig",
    "RunConfig",
    "SearchConfig",
    "ThresholdConfig",
    "list_presets",
    "preset",
]
