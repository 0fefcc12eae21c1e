"""A package that adds a pruning method and an attention module to xpruner; importing it registers both."""

from xpruner_example import adapter, reader_norm

__all__ = ["adapter", "reader_norm"]
