"""Closed-form least squares after surgery."""

from xpruner.compensation.fit import compensate

__all__ = ["compensate"]
