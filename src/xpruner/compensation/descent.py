"""Adam on a few images: minibatches drawn by (seed, part, epoch), and the state that is best on held-out images."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from xpruner.runtime.progress import Progress

WARMUP = 0.1
"""Share of the steps during which the rate rises."""
BATCH = 32
"""Images a step; all where there are fewer."""
CHECKS = 10
"""How often the held-out images are looked at."""


@dataclass(frozen=True)
class Descent:
    """How parameters are tuned.

    Attributes:
        steps: Updates.
        lr: Peak rate of Adam.
        seed: Of the drawing of images.
        part: Number of what is tuned, so that each part draws in an order of its own.
    """

    steps: int
    lr: float
    seed: int
    part: int


def descend(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    held_out: Callable[[], float],
    images: int,
    how: Descent,
    progress: Progress,
) -> tuple[float, float]:
    """Tunes parameters in place and leaves those that did best on held-out images, the first ones among them.

    Args:
        parameters: What is tuned.
        loss: From the numbers (batch,) of images to their loss.
        held_out: Measures the present parameters on the held-out images; no gradient is taken.
        images: How many there are to draw from.
        how: Steps, rate, batch and seed.
        progress: Told of every step.

    Returns:
        The held-out loss before, and that of what is left.
    """
    optimizer = torch.optim.Adam(parameters, lr=how.lr)
    first = best = held_out()
    kept = [parameter.detach().clone() for parameter in parameters]
    checked = {round(how.steps * (number + 1) / CHECKS) for number in range(CHECKS)}
    for step, chosen in enumerate(draws(images, how), 1):
        for group in optimizer.param_groups:
            group["lr"] = how.lr * rate(step, how.steps)
        optimizer.zero_grad()
        with torch.enable_grad():
            value = loss(chosen)
            value.backward()
        optimizer.step()
        progress.advance(len(chosen), loss=value.item())
        if not math.isfinite(value.item()):
            break
        if step in checked and (found := held_out()) < best:
            best, kept = found, [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, tensor in zip(parameters, kept, strict=True):
            parameter.copy_(tensor)
    return first, best


def rate(step: int, steps: int) -> float:
    """Returns the share of the peak rate at an update 1 .. steps: linear up to 1, then a cosine towards 0."""
    rising = max(1, round(WARMUP * steps))
    if step <= rising:
        return step / rising
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / (steps - rising + 1))


def draws(images: int, how: Descent) -> Iterator[Tensor]:
    """Yields for each update the numbers of its images: every image once an epoch, whole batches alone."""
    size = min(BATCH, images)
    per_epoch = images // size
    for step in range(how.steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = torch.from_numpy(np.random.default_rng((how.seed, how.part, epoch)).permutation(images))
        yield order[place * size : (place + 1) * size]


@contextmanager
def only_trained(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Lets gradients flow into these parameters alone for a while; flags and gradients are as before afterwards."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        yield
    finally:
        for parameter, wanted, gradient in before:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
