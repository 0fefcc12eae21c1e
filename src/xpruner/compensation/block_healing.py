"""Tuning one block so that its output follows the dense stream, given the healed stream before it."""

import logging

import torch
from torch import Tensor, nn

from xpruner.calibration.incremental_forward import IncrementalForward
from xpruner.compensation.block_streams import BlockStreams, block_streams
from xpruner.compensation.descent import Descent, descend, only_trained
from xpruner.plan.plan import Plan
from xpruner.runtime.progress import Progress
from xpruner.units.streams import stream_key

log = logging.getLogger("xpruner")

Passes = tuple[IncrementalForward, IncrementalForward]
"""Through the pruned and through the dense network."""

CHUNK = 64
"""Images of a pass over the held-out ones."""


def heal_block(
    block: str,
    passes: tuple[Passes, Passes],
    plan: Plan,
    weights: Tensor | None,
    how: Descent,
    progress: Progress,
) -> None:
    """Tunes all parameters of a block that no other module shares, in place; leaves it where it cannot be followed.

    Args:
        block: Its path; "" for none.
        passes: Over the images to learn from, and over those held out.
        plan: Which channels of the stream are kept.
        weights: (tokens,) how much each counts, with mean 1; absent, or for a stream of another shape, all alike.
        how: Steps, rate and seed.
        progress: Told of every step.
    """
    model, dense = (each.model for each in passes[0])
    kept = plan.keep.get(stream_key(dense, block))
    found = [block_streams(block, *pair, kept) for pair in passes] if block else []
    learned, held_out = found if len(found) == 2 else (None, None)
    if learned is None or held_out is None:
        log.info("healing: %s cannot be followed by itself, and is tuned with the whole network", block or "a part")
        return
    parameters = own_parameters(model, block)
    if not parameters:
        return
    scale = variance(learned.targets, weights)
    with only_trained(model, parameters):
        before, after = descend(
            parameters,
            lambda chosen: distance(learned, chosen, weights) / scale,
            lambda: held_out_distance(held_out, weights) / scale,
            len(learned.inputs),
            how,
            progress,
        )
    log.info("healing: %s missed %.4f of the stream's variance in closed form, and misses %.4f", block, before, after)


def own_parameters(model: nn.Module, path: str) -> list[nn.Parameter]:
    """Returns the parameters of a module that no module outside of it shares."""
    inside = f"{path}."
    elsewhere = {id(p) for name, p in model.named_parameters(remove_duplicate=False) if not name.startswith(inside)}
    return [parameter for parameter in model.get_submodule(path).parameters() if id(parameter) not in elsewhere]


def distance(streams: BlockStreams, chosen: Tensor | slice, weights: Tensor | None) -> Tensor:
    """Returns the mean squared distance of a block's output from its target, for the images of these numbers."""
    return _weighted(streams.outputs(chosen).float() - streams.targets[chosen].float(), weights)


@torch.no_grad()
def held_out_distance(streams: BlockStreams, weights: Tensor | None) -> float:
    """Returns the mean squared distance over all images."""
    count = len(streams.inputs)
    parts = [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    return sum((part.stop - part.start) * distance(streams, part, weights).item() for part in parts) / count


def variance(targets: Tensor, weights: Tensor | None) -> float:
    """Returns the variance of a stream (images, ...) about the mean over the images."""
    return max(_weighted(targets.float() - targets.float().mean(0), weights).item(), 1e-12)


def _weighted(difference: Tensor, weights: Tensor | None) -> Tensor:
    squares = difference.square()
    tokens = squares.mean(-1).flatten(1) if squares.ndim > 2 else squares
    if weights is None or tokens.shape[1] != len(weights):
        return squares.mean()
    return (tokens * weights.to(tokens)).mean()
