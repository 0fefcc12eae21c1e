"""What a model costs: MACs, parameters, latency, and the time and memory of a stage."""
