"""How long a batch takes: models timed against each other under the same conditions.

A processor's speed drifts with its temperature and its other work. The candidates therefore take turns within every
round, each round starts with another one, and the median over the rounds stands for each of them.
"""

import copy
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import nn

from xpruner.errors import UsageError, unknown
from xpruner.runtime.modes import evaluating

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure_latency(
    models: dict[str, nn.Module],
    input_shape: tuple[int, int, int],
    batch_sizes: Sequence[int],
    *,
    rounds: int = 30,
    warmup: int = 3,
    precision: str = "fp32",
    max_seconds: float = 60.0,
) -> dict[str, dict[int, float]]:
    """Times the forward passes of several models side by side, in eval mode and without gradients.

    Args:
        models: The candidates by name, all on one device.
        input_shape: Of one image: (channels, height, width).
        batch_sizes: Images a forward pass, each size timed on its own.
        rounds: Timed passes of each model at each batch size.
        warmup: Passes of each model before those, not timed.
        precision: ``fp32``, or ``bf16`` or ``fp16`` for copies of the models cast to it.
        max_seconds: No further round starts at a batch size after so many seconds; at least one is always timed.

    Returns:
        For each model, the median milliseconds a batch by batch size. The models' modes are left as they were.

    Raises:
        UsageError: There is no model or no batch size, a number is below 1, the precision is unknown, or the models
            lie on several devices.
    """
    device = _check(models, batch_sizes, rounds, precision)
    dtype = PRECISIONS[precision]
    if dtype != torch.float32:
        models = {name: copy.deepcopy(model).to(dtype) for name, model in models.items()}
    medians: dict[str, dict[int, float]] = {name: {} for name in models}
    with ExitStack() as modes, torch.inference_mode():
        for model in models.values():
            modes.enter_context(evaluating(model))
        for batch in batch_sizes:
            images = torch.randn(batch, *input_shape, device=device, dtype=dtype)
            for name, seconds in _alternate(models, images, rounds, warmup, max_seconds).items():
                medians[name][batch] = 1000 * statistics.median(seconds)
    return medians


def _check(models: dict[str, nn.Module], batch_sizes: Sequence[int], rounds: int, precision: str) -> torch.device:
    """Returns the device that all models are on."""
    if not models:
        raise UsageError("There is no model to time; name at least one.")
    if not batch_sizes or min(batch_sizes) < 1:
        raise UsageError(f"Batch sizes {list(batch_sizes)} cannot be timed; give at least one, and none below 1.")
    if rounds < 1:
        raise UsageError(f"{rounds} rounds measure nothing; ask for at least 1.")
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    devices = {parameter.device for model in models.values() for parameter in model.parameters()}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise UsageError(f"The models lie on several devices ({names}); move them to one before timing them.")
    return devices.pop() if devices else torch.device("cpu")


def _alternate(
    models: dict[str, nn.Module], images: torch.Tensor, rounds: int, warmup: int, max_seconds: float
) -> dict[str, list[float]]:
    """Returns the seconds of every timed pass on ``images`` (batch, channels, height, width), in turns."""
    deadline = time.perf_counter() + max_seconds
    for _ in _until(deadline, warmup):
        for model in models.values():
            model(images)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    names = list(models)
    for index in _until(deadline, rounds):
        start = index % len(names)
        for name in names[start:] + names[:start]:
            seconds[name].append(_seconds(models[name], images))
    return seconds


def _until(deadline: float, count: int) -> Iterator[int]:
    """Yields 0, 1, ... below ``count``; stops early, but not before the first, once the ``deadline`` has passed."""
    for index in range(count):
        yield index
        if time.perf_counter() >= deadline:
            return


def _seconds(model: nn.Module, images: torch.Tensor) -> float:
    _synchronise(images.device)
    start = time.perf_counter()
    model(images)
    _synchronise(images.device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
