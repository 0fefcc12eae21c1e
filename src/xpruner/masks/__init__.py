"""Explainability-aware masks: class evidence, where masks start, and how they are learned."""
