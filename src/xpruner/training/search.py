"""The loop in which masks and thresholds are learned: frozen weights, exact resuming, and a stop when a loss breaks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from xpruner.data import batches
from xpruner.errors import XPrunerError
from xpruner.runtime.devices import seed_step
from xpruner.runtime.progress import Progress
from xpruner.training.state import Snapshot, StateFolder, on_cpu, optimizer_tensors, restore_optimizer

Loss = Callable[[float, Tensor, Tensor], tuple[Tensor, dict[str, float]]]
"""From the progress (0 to 1), images and labels of a step to the loss and the figures to log."""
OnStep = Callable[[int, dict[str, float]], None]


@dataclass
class LoopOptions:
    """What a learning loop needs besides its loss.

    Attributes:
        steps: Updates in all.
        batch_size: Images a step.
        seed: Of the data order and of all randomness in a step.
        workers: Loader processes.
        state_dir: Where the state is kept; absent, nothing is stored.
        checkpoint_every: Steps between states.
        on_step: Called after every update with its number and figures.
    """

    steps: int
    batch_size: int = 64
    seed: int = 0
    workers: int = 0
    state_dir: Path | None = None
    checkpoint_every: int = 50
    on_step: OnStep | None = None


def learn(
    name: str,
    learned: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    train: Dataset,
    options: LoopOptions,
    identity: dict[str, Any] | None = None,
    after: Callable[[int], None] | None = None,
    before: Callable[[int], float] | None = None,
) -> None:
    """Minimises ``loss`` over the parameters of ``learned``, in place, and goes on where an earlier call was stopped.

    Args:
        name: For the progress display.
        learned: Holds all that changes from step to step, as parameters and buffers.
        optimizer: Over its parameters.
        loss: The loss of a step.
        train: Pairs of an image and a class index.
        options: Steps, batches, seed and state.
        identity: What another call must share to go on from the stored state.
        after: Called with the number of every update once it is made, such as for a proximal step.
        before: Called with the number of every update while its gradients are at hand, such as to clip them; returns
            their norm.

    Raises:
        XPrunerError: If the loss or that norm is not finite; what is learned is then as it was at the last good state.
        UsageError: If the stored state belongs to another search.
    """
    folder = StateFolder(options.state_dir, _identity(name, options, identity)) if options.state_dir else None
    good = _resume(learned, optimizer, folder)
    device = next(learned.parameters()).device
    with Progress(name, options.steps, start=good.step) as progress:
        for step, (images, labels) in enumerate(_data(train, options, good.step), good.step + 1):
            seed_step(options.seed, step)
            value, figures = loss((step - 1) / max(options.steps - 1, 1), images.to(device), labels.to(device))
            optimizer.zero_grad()
            value.backward()
            norm = before(step) if before else 0.0
            if not (math.isfinite(value.item()) and math.isfinite(norm)):
                _restore(learned, optimizer, good)
                what, number = ("gradients", norm) if math.isfinite(value.item()) else ("loss", value.item())
                raise XPrunerError(
                    f"The {what} of {name} became {number} at step {step}; the state of step {good.step} is kept: "
                    "lower the learning rate, or use precision fp32."
                )
            optimizer.step()
            if after:
                after(step)
            progress.advance(len(images), loss=value.item(), **figures)
            if options.on_step:
                options.on_step(step, {"loss": value.item(), **figures})
            if folder and (step % options.checkpoint_every == 0 or step == options.steps):
                good = _snapshot(learned, optimizer, step)
                folder.write(good)


def _data(train: Dataset, options: LoopOptions, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = min(options.batch_size, len(train))  # type: ignore[arg-type]
    per_epoch = len(train) // size  # type: ignore[arg-type]
    step = start
    while step < options.steps:
        epoch, first = divmod(step, per_epoch)
        loader = batches(
            train, size, seed=options.seed, epoch=epoch, start=first, drop_last=True, workers=options.workers
        )
        for batch in loader:
            if step == options.steps:
                return
            yield batch
            step += 1


def _identity(name: str, options: LoopOptions, more: dict[str, Any] | None) -> dict[str, Any]:
    return {"search": name, "steps": options.steps, "batch size": options.batch_size, "seed": options.seed} | (
        more or {}
    )


def _snapshot(learned: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Snapshot:
    tensors = {f"learned.{name}": tensor for name, tensor in learned.state_dict().items()}
    return Snapshot(step, on_cpu(tensors | optimizer_tensors(optimizer)))


def _restore(learned: nn.Module, optimizer: torch.optim.Optimizer, snapshot: Snapshot) -> None:
    learned.load_state_dict(snapshot.part("learned"))
    restore_optimizer(optimizer, snapshot)


def _resume(learned: nn.Module, optimizer: torch.optim.Optimizer, folder: StateFolder | None) -> Snapshot:
    found = folder.read() if folder else None
    if found is None:
        return _snapshot(learned, optimizer, 0)
    _restore(learned, optimizer, found)
    return found
