"""xpruner: explainable structured pruning of vision transformers (X-Pruner, CVPR 2023).

Every name loads on first use, so that ``import xpruner`` costs nothing.
"""

from typing import TYPE_CHECKING

from xpruner._lazy import lazily
from xpruner._torchvision import declare_before_import

__version__ = "0.1.0"

_HOMES = {
    "prune": "api",
    "PruneResult": "run.pipeline",
    "RunConfig": "config",
    "ModelConfig": "config",
    "DataConfig": "config",
    "MaskConfig": "config",
    "ThresholdConfig": "config",
    "SearchConfig": "config",
    "CompensateConfig": "config",
    "FinetuneConfig": "config",
    "preset": "config",
    "list_presets": "config",
    "open_run": "run.finished",
    "FinishedRun": "run.finished",
    "specialise": "run.specialise",
    "load_data": "data",
    "calibration_batches": "data",
    "InputSpec": "data",
    "load_model": "models",
    "find_units": "units",
    "offered_kinds": "units",
    "register_adapter": "units",
    "gating": "units.gates",
    "consumer_moments": "calibration.moments",
    "ClassMasks": "masks.class_masks",
    "class_evidence": "masks.evidence",
    "learn_masks": "masks.learning",
    "register_signal": "masks.signals",
    "search_thresholds": "thresholds.search",
    "Budget": "plan.budget",
    "Plan": "plan.plan",
    "plan_from_scores": "plan.solver",
    "apply": "surgery",
    "compensate": "compensation.fit",
    "finetune": "training",
    "evaluate": "training",
    "LoopOptions": "training.options",
    "save": "models.checkpoint",
    "load": "models.checkpoint",
    "count_macs": "measure.macs",
    "count_params": "measure.macs",
    "measure_latency": "measure.latency",
    "Method": "methods",
    "Problem": "methods",
    "Outcome": "methods",
    "list_methods": "methods",
    "register_method": "methods",
    "register_score": "methods",
    "list_maps": "maps",
    "register_map": "maps",
    "UsageError": "errors",
    "XPrunerError": "errors",
}

__all__ = [
    "Budget",
    "ClassMasks",
    "CompensateConfig",
    "DataConfig",
    "FinetuneConfig",
    "FinishedRun",
    "InputSpec",
    "LoopOptions",
    "MaskConfig",
    "Method",
    "ModelConfig",
    "Outcome",
    "Plan",
    "Problem",
    "PruneResult",
    "RunConfig",
    "SearchConfig",
    "ThresholdConfig",
    "UsageError",
    "XPrunerError",
    "__version__",
    "apply",
    "calibration_batches",
    "class_evidence",
    "compensate",
    "consumer_moments",
    "count_macs",
    "count_params",
    "evaluate",
    "find_units",
    "finetune",
    "gating",
    "learn_masks",
    "list_maps",
    "list_methods",
    "list_presets",
    "load",
    "load_data",
    "load_model",
    "measure_latency",
    "offered_kinds",
    "open_run",
    "plan_from_scores",
    "preset",
    "prune",
    "register_adapter",
    "register_map",
    "register_method",
    "register_score",
    "register_signal",
    "save",
    "search_thresholds",
    "specialise",
]

if TYPE_CHECKING:
    from xpruner.api import prune
    from xpruner.calibration.moments import consumer_moments
    from xpruner.compensation.fit import compensate
    from xpruner.config import (
        CompensateConfig,
        DataConfig,
        FinetuneConfig,
        MaskConfig,
        ModelConfig,
        RunConfig,
        SearchConfig,
        ThresholdConfig,
        list_presets,
        preset,
    )
    from xpruner.data import InputSpec, calibration_batches, load_data
    from xpruner.errors import UsageError, XPrunerError
    from xpruner.maps import list_maps, register_map
    from xpruner.masks.class_masks import ClassMasks
    from xpruner.masks.evidence import class_evidence
    from xpruner.masks.learning import learn_masks
    from xpruner.masks.signals import register_signal
    from xpruner.measure.latency import measure_latency
    from xpruner.measure.macs import count_macs, count_params
    from xpruner.methods import Method, Outcome, Problem, list_methods, register_method, register_score
    from xpruner.models import load_model
    from xpruner.models.checkpoint import load, save
    from xpruner.plan.budget import Budget
    from xpruner.plan.plan import Plan
    from xpruner.plan.solver import plan_from_scores
    from xpruner.run.finished import FinishedRun, open_run
    from xpruner.run.pipeline import PruneResult
    from xpruner.run.specialise import specialise
    from xpruner.surgery import apply
    from xpruner.thresholds.search import search_thresholds
    from xpruner.training import evaluate, finetune
    from xpruner.training.options import LoopOptions
    from xpruner.units import find_units, offered_kinds, register_adapter
    from xpruner.units.gates import gating

__getattr__, __dir__ = lazily(__name__, _HOMES)

declare_before_import()
