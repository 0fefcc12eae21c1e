"""Modules that hold fewer units where the library's own cannot."""
