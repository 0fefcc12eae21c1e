"""The differentiable pruning operation and the search for layer-wise thresholds."""
