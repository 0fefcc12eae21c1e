"""Forward passes over the same images, each further into a model, without running the blocks before again."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.errors import XPrunerError
from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import capture_inputs

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and the named arguments of a module's call."""


class IncrementalForward:
    """Captures the inputs of modules, in forward order, without running the blocks before them again for each.

    The arguments of the block around them are kept for every batch, and passes start there. To get to the next block
    the present one is run where the next takes its output and otherwise the same arguments, as in most vision
    transformers, else the whole model. So the weights before the block must not change any more.

    Args:
        model: In the mode that it should run in.
        images: Batches (batch, channels, height, width).
        precision: Of the passes.
    """

    def __init__(self, model: nn.Module, images: Sequence[Tensor], precision: str):
        self.model, self.precision = model, precision
        self.device = next(model.parameters()).device
        self.images: list[Call] = [((batch.to(self.device),), {}) for batch in images]
        self.block, self.calls = "", self.images

    def read(self, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Yields for each batch the inputs of the modules at these paths; a pass ends at the last of them.

        Raises:
            XPrunerError: If the model does not call the last of them.
        """
        block = block_around(self.model, paths)
        for call in self.calls_of(block):
            with capture_inputs(self.model, paths) as inputs:
                self._reach(paths[-1], self.block, call)
            yield dict(inputs)

    def calls_of(self, block: str) -> list[Call]:
        """Returns how a block is called, batch by batch; later passes start there.

        Raises:
            XPrunerError: If the model does not call it.
        """
        if block != self.block:
            self.calls, self.block = self._calls(block), block
        return self.calls

    def outputs_of(self, block: str) -> Iterator[Any]:
        """Yields what a block returns, batch by batch; what it raises is as for :meth:`calls_of`."""
        return (self._run(block, call) for call in self.calls_of(block))

    def _calls(self, block: str) -> list[Call]:
        """Returns the calls of a block, batch by batch."""
        first = self._reach(block, "", self.images[0])
        if self.block and is_fed(first, self.calls[0], self._run(self.block, self.calls[0])):
            return [((self._run(self.block, call), *call[0][1:]), call[1]) for call in self.calls]
        return [first, *(self._reach(block, "", call) for call in self.images[1:])]

    def _run(self, path: str, call: Call) -> Any:
        args, named = call
        with autocast(self.precision, self.device):
            return self.model.get_submodule(path)(*args, **named)

    def _reach(self, path: str, start: str, call: Call) -> Call:
        """Calls the module at ``start`` and returns the call of the one at ``path``."""
        with self.model.get_submodule(path).register_forward_pre_hook(_stop, with_kwargs=True):
            try:
                self._run(start, call)
            except _Reached as reached:
                return reached.call
        raise XPrunerError(f"The model does not call its module {path!r}, so that nothing can be fitted there.")


class _Reached(Exception):
    """Ends a forward pass where it has served its purpose."""

    def __init__(self, call: Call):
        self.call = call


def _stop(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    raise _Reached((args, named))


def block_around(model: nn.Module, paths: Sequence[str]) -> str:
    """Returns the path of the smallest module of a sequence or list of modules that holds all of these, or ""."""
    parts = paths[-1].split(".")
    for end in range(len(parts), 0, -1):
        block = ".".join(parts[:end])
        listed = isinstance(model.get_submodule(".".join(parts[: end - 1])), nn.Sequential | nn.ModuleList)
        if listed and all(f"{path}.".startswith(f"{block}.") for path in paths):
            return block
    return ""


def is_fed(call: Call, before: Call, output: Any) -> bool:
    """Returns whether a module is called as the one before it was, but with that one's output in the first place."""
    (args, named), (args_before, named_before) = call, before
    return bool(args) and same((args[0], args[1:], named), (output, args_before[1:], named_before))


def same(one: Any, other: Any) -> bool:
    """Returns whether two arguments are equal, tensors and what they are nested in alike."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple | list):
        return isinstance(other, tuple | list) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
