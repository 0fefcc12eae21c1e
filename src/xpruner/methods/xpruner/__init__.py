"""X-Pruner: its rounds, and the guard of classes."""
