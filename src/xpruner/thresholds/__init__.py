"""The differentiable pruning operation and the search for layer-wise thresholds."""

from xpruner.thresholds.search import search_thresholds

__all__ = ["search_thresholds"]
