"""The presets: for each a run with its defaults."""

from copy import deepcopy

from xpruner.config.options import CompensateConfig, FinetuneConfig, MaskConfig, RunConfig, ThresholdConfig
from xpruner.errors import unknown

PRESETS = {
    "default": RunConfig(),
    "paper": RunConfig(
        preset="paper",
        units=["head", "hidden"],
        rounds=1,
        masks=MaskConfig(evidence="none", steps=300, lr=0.05, wrong=0.0, mean=0.0, sparsity=0.5),
        thresholds=ThresholdConfig(
            importance="mean", slope_start=2.0, slope_end=8.0, steps=300, lr=0.02, mask_lr=0.0,
            constraint="lagrangian", warmup=1.0, compensated=False, distill=False,
        ),
        compensate=CompensateConfig(mode="none"),
        finetune=FinetuneConfig(distill=0.0),
    ),
}  # fmt: skip
"""``default`` is what measures best. ``paper`` keeps to what the sources state: masks that start open and are learned
with the true class as the gate, sparsity and smoothness regularisers, thresholds learned by the differentiable pruning
operation under a cost constraint with a threshold regulariser, and fine-tuning on labels."""


def preset(name: str) -> RunConfig:
    """Returns a run with the defaults of one of the :data:`PRESETS`.

    Raises:
        UsageError: If the name is unknown.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return deepcopy(PRESETS[name])


def list_presets() -> list[str]:
    """Returns the names of all presets."""
    return sorted(PRESETS)
