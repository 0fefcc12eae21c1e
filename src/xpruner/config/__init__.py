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
from xpruner.config.presets import preset

__all__ = [
    "CompensateConfig",
    "DataConfig",
    "FinetuneConfig",
    "MaskConfig",
    "ModelConfig",
    "RunConfig",
    "SearchConfig",
    "ThresholdConfig",
    "preset",
]
