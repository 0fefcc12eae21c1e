"""Explainability-aware masks: class evidence, from which masks start, and how they are learned."""

from xpruner.masks.class_masks import ClassMasks
from xpruner.masks.evidence import class_evidence
from xpruner.masks.learning import learn_masks
from xpruner.masks.signals import register_signal

__all__ = ["ClassMasks", "class_evidence", "learn_masks", "register_signal"]
