"""What a model costs: MACs, parameters, latency, and the time and memory of a stage."""

from xpruner.measure.latency import compare_latency
from xpruner.measure.macs import count_macs, count_params

__all__ = ["compare_latency", "count_macs", "count_params"]
