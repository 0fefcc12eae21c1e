"""A page in which a finished run is explored: other budgets, some of its classes, images of one's own."""

from xpruner.explore.page import serve

__all__ = ["serve"]
