"""What registers itself under a name is found by importing the modules that it lies in."""

import sys
from importlib import import_module
from pkgutil import walk_packages


def import_submodules(package: str) -> None:
    """Imports every module below a package that is being imported, in its sub-packages too."""
    for module in walk_packages(sys.modules[package].__path__, f"{package}."):
        import_module(module.name)
