"""What a block of the healed network reads, and what the dense one's puts out: stored for the calibration images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xpruner.calibration.incremental_forward import IncrementalForward, same
from xpruner.runtime.devices import autocast
from xpruner.runtime.outputs import tensors_of


@dataclass(frozen=True)
class BlockStreams:
    """A block's input in the healed network and its target, for some images.

    Attributes:
        module: The block.
        inputs: (images, ...) the stream before it.
        rest: Its further arguments, the same for all images.
        named: Its named arguments, the same for all images.
        targets: (images, ...) the dense stream behind it, in the channels that are kept.
        precision: Of its forward passes.
    """

    module: nn.Module
    inputs: Tensor
    rest: tuple[Any, ...]
    named: dict[str, Any]
    targets: Tensor
    precision: str

    def outputs(self, chosen: Tensor | slice) -> Tensor:
        """Returns what the block puts out for the images of these numbers."""
        with autocast(self.precision, self.inputs.device):
            return tensors_of(self.module(self.inputs[chosen], *self.rest, **self.named))[0]


@torch.no_grad()
def block_streams(
    block: str, pruned: IncrementalForward, dense: IncrementalForward, kept: Sequence[int] | None
) -> BlockStreams | None:
    """Returns what a block reads in the pruned network and puts out in the dense one; None where it cannot be followed.

    It can be followed if its first argument is a stream with an image in each row, its other arguments do not depend on
    the images, and its output has the shape of the dense one's, but for the channels that are pruned.

    Args:
        block: Its path, the same in both networks.
        pruned: Passes over the images through the network to be healed.
        dense: Passes over the same images through the dense network.
        kept: Channels of its stream that are kept; absent for all.
    """
    sizes = [len(args[0]) for args, _ in pruned.images]
    calls = pruned.calls_of(block)
    first = [args[0] if args and isinstance(args[0], Tensor) else None for args, _ in calls]
    inputs = [stream for stream, size in zip(first, sizes, strict=True) if stream is not None and len(stream) == size]
    rest, named = calls[0][0][1:], calls[0][1]
    if len(inputs) < len(calls) or not all(same((args[1:], more), (rest, named)) for args, more in calls):
        return None
    ours = next(_streams_of(pruned.outputs_of(block)))
    found = [in_channels(target, ours.shape[1:], kept) for target in _streams_of(dense.outputs_of(block))]
    targets = [target for target, size in zip(found, sizes, strict=True) if target is not None and len(target) == size]
    if len(targets) < len(calls):
        return None
    module = pruned.model.get_submodule(block)
    return BlockStreams(module, torch.cat(inputs), rest, named, torch.cat(targets), pruned.precision)


def in_channels(target: Tensor, shape: Sequence[int], kept: Sequence[int] | None) -> Tensor | None:
    """Returns a dense stream (images, ...) in the channels that are kept; None if that does not give the shape.

    Args:
        target: The dense stream.
        shape: Of the pruned network's, without the images.
        kept: The channels that are kept; absent for all. They lie in the one dimension that is smaller.
    """
    if target.shape[1:] == torch.Size(shape):
        return target
    smaller = [axis for axis, size in enumerate(shape, 1) if axis < target.ndim and target.shape[axis] != size]
    if kept is None or target.ndim != len(shape) + 1 or len(smaller) != 1 or shape[smaller[0] - 1] != len(kept):
        return None
    return target.index_select(smaller[0], torch.tensor(list(kept), device=target.device))


def _streams_of(outputs: Iterator[Any]) -> Iterator[Tensor]:
    """Yields the first tensor of each output, an empty one where there is none."""
    return (next(iter(tensors_of(output)), torch.empty(0)) for output in outputs)
