"""What a model costs: MACs, parameters, latency, and the time and memory of a stage."""

from xpruner.measure.latency import measure_latency
from xpruner.measure.macs import count_macs, count_params

__all__ = ["count_macs", "count_params", "measure_latency"]
