"""Adapters by library and family: where the units of a module class lie. All are imported by ``xpruner.units``."""
