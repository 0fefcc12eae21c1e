"""xpruner: explainable structured pruning of vision transformers (X-Pruner, CVPR 2023).

The public verbs load on first use, so that ``import xpruner`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "prune": "api",
    "PruneResult": "pipeline",
    "find_units": "units",
    "ClassMasks": "masks",
    "class_evidence": "evidence",
    "learn_masks": "mask_learning",
    "search_thresholds": "threshold_search",
    "gating": "gates",
    "Budget": "plan",
    "Plan": "plan",
    "solve": "plan",
    "apply": "surgery",
    "compensate": "compensation",
    "finetune": "training",
    "evaluate": "training",
    "save": "checkpoint",
    "load": "checkpoint",
    "count_macs": "cost",
    "count_params": "cost",
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
    "prune",
    "save",
    "search_thresholds",
    "solve",
]

if TYPE_CHECKING:
    from xpruner.api import prune
    from xpruner.checkpoint import load, save
    from xpruner.compensation import compensate
    from xpruner.cost import count_macs, count_params
    from xpruner.errors import UsageError, XPrunerError
    from xpruner.evidence import class_evidence
    from xpruner.gates import gating
    from xpruner.mask_learning import learn_masks
    from xpruner.masks import ClassMasks
    from xpruner.pipeline import PruneResult
    from xpruner.plan import Budget, Plan, solve
    from xpruner.surgery import apply
    from xpruner.threshold_search import search_thresholds
    from xpruner.training import evaluate, finetune
    from xpruner.units import find_units


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"xpruner.{_HOME[name]}"), name)
    raise AttributeError(f"module 'xpruner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
