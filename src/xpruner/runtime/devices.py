"""Where training runs, in which precision, and from which random numbers."""

import random

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration

from xpruner.errors import UsageError, unknown
from xpruner.runtime.precision import AUTO, resolve_precision

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def accelerator() -> Accelerator:
    """Returns accelerate's view of the devices and processes; a batch is split over the processes, not multiplied.

    Precision is left to ``autocast``: accelerate fixes one for the whole process and patches the model's forward.
    """
    return Accelerator(mixed_precision="no", dataloader_config=DataLoaderConfiguration(split_batches=True))


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Returns the context in which a forward pass runs in ``fp32``, ``bf16``, ``fp16`` or what ``auto`` resolves to.

    Raises:
        UsageError: If the precision is unknown, or fp16 on a CPU.
    """
    precision = resolve_precision(precision, device)
    if precision not in _DTYPES:
        raise unknown("precision", precision, [AUTO, *_DTYPES])
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("Precision fp16 needs a GPU; choose bf16 or fp32 on a CPU.")
    dtype = _DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seeds Python, numpy and torch for one step of one process, so that the step can be repeated on its own."""
    mixed = int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
