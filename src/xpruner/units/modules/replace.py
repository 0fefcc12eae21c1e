"""Puts a module in the place of another."""

from torch import nn


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module in the place of another, in place, wherever that is: blocks may share one."""
    old = model.get_submodule(path)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, module)
