"""Modes of a model for a while: evaluation, frozen weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module | None) -> Iterator[None]:
    """Puts the model into eval mode for a while; each of its modules gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()] if model is not None else []
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Puts a model in eval mode without parameter gradients while the block runs, and then back as it was."""
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    with evaluating(model):
        try:
            model.requires_grad_(False)
            yield
        finally:
            for parameter, grad in zip(model.parameters(), wanted, strict=True):
                parameter.requires_grad_(grad)
