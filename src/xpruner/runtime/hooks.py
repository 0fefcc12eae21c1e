"""Hooks on a model for the length of a block, and the inputs and outputs of its modules that they capture."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Removes every hook after the block, also when the block or the registration of a later hook raised.

    Args:
        handles: Of registered hooks; a generator registers each as the block is entered.
    """
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield


@contextmanager
def capture_inputs(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yields a dictionary of the latest input of each module by its path, filled by the passes inside the block."""
    inputs: dict[str, Tensor] = {}
    with hooked(
        model.get_submodule(path).register_forward_pre_hook(
            lambda _module, args, path=path: inputs.__setitem__(path, args[0])
        )
        for path in paths
    ):
        yield inputs


@contextmanager
def capture_outputs(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yields a dictionary of the latest output of each module by its path, filled by the passes inside the block."""
    outputs: dict[str, Tensor] = {}
    with hooked(
        model.get_submodule(path).register_forward_hook(
            lambda _module, _args, output, path=path: outputs.__setitem__(path, output)
        )
        for path in paths
    ):
        yield outputs
