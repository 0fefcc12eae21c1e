"""The comparison: every method from the same dense weights to the same budget with the same training."""
