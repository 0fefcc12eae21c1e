"""xpruner: explainable structured pruning of vision transformers (X-Pruner, CVPR 2023).

The public verbs load on first use, so that ``import xpruner`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xpruner._torchvision import declare_before_import

__version__ = "0.1.0"

_HOME = {
    "prune": "api",
    "PruneResult": "run.pipeline",
    "find_units": "units",
    "ClassMasks": "masks.class_masks",
    "class_evidence": "masks.evidence",
    "learn_masks": "masks.learning",
    "search_thresholds": "thresholds.search",
    "gating": "units.gates",
    "Budget": "plan.budget",
    "Plan": "plan.plan",
    "plan_from_scores": "plan.solver",
    "apply": "surgery",
    "compensate": "compensation.fit",
    "finetune": "training",
    "evaluate": "training",
    "save": "models.checkpoint",
    "load": "models.checkpoint",
    "count_macs": "measure.macs",
    "count_params": "measure.macs",
    "UsageError": "errors",
    "XPrunerError": "errors",
}

__all__ = [
    "Budget",
    "ClassMasks",
    "Plan",
    "PruneResult",
    "UsageError",
    "XPrunerError",
    "__version__",
    "apply",
    "class_evidence",
    "compensate",
    "count_macs",
    "count_params",
    "evaluate",
    "find_units",
    "finetune",
    "gating",
    "learn_masks",
    "load",
    "plan_from_scores",
    "prune",
    "save",
    "search_thresholds",
]

if TYPE_CHECKING:
    from xpruner.api import prune
    from xpruner.compensation.fit import compensate
    from xpruner.errors import UsageError, XPrunerError
    from xpruner.masks.class_masks import ClassMasks
    from xpruner.masks.evidence import class_evidence
    from xpruner.masks.learning import learn_masks
    from xpruner.measure.macs import count_macs, count_params
    from xpruner.models.checkpoint import load, save
    from xpruner.plan.budget import Budget
    from xpruner.plan.plan import Plan
    from xpruner.plan.solver import plan_from_scores
    from xpruner.run.pipeline import PruneResult
    from xpruner.surgery import apply
    from xpruner.thresholds.search import search_thresholds
    from xpruner.training import evaluate, finetune
    from xpruner.units import find_units
    from xpruner.units.gates import gating


declare_before_import()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"xpruner.{_HOME[name]}"), name)
    raise AttributeError(f"module 'xpruner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
