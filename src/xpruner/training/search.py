"""The training loop of searches, such as of masks and thresholds: exact resuming, and a stop when a loss is not
finite."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from xpruner.data import batches
from xpruner.errors import XPrunerError
from xpruner.runtime.devices import seed_step
from xpruner.runtime.progress import Progress
from xpruner.training.options import LoopOptions
from xpruner.training.state import Snapshot, StateFolder, on_cpu, optimizer_tensors, restore_optimizer

StepLoss = Callable[[float, Tensor, Tensor], tuple[Tensor, dict[str, float]]]
"""From the progress (0 to 1), images and labels of a step to the loss and the figures to log."""


@dataclass(frozen=True)
class Loop:
    """What a search learns, and how.

    Attributes:
        name: For the progress display and messages.
        learned: Holds all state that changes from step to step, as parameters and buffers.
        optimizer: Over its parameters.
        loss: The loss of a step.
        steps: Updates in all.
        identity: What another call must share to resume from the stored state, besides the loop's options.
        after: Called with the number of every update after it, such as for a proximal step.
        before: Called with the number of every update once its gradients are computed, such as to clip them; returns
            their norm.
    """

    name: str
    learned: nn.Module
    optimizer: torch.optim.Optimizer
    loss: StepLoss
    steps: int
    identity: dict[str, Any] = field(default_factory=dict)
    after: Callable[[int], None] | None = None
    before: Callable[[int], float] | None = None


def learn(loop: Loop, train: Dataset, options: LoopOptions) -> None:
    """Minimises the loss of a loop over what it learns, in place, and resumes where an earlier call was stopped.

    Args:
        loop: What is learned.
        train: Pairs of an image and a class index.
        options: Batches, seed and state.

    Raises:
        XPrunerError: If the loss or the norm of the gradients is not finite; what is learned is then restored to the
            last good state.
        UsageError: If the stored state belongs to another search.
    """
    folder = StateFolder(options.state_dir, _identity(loop, options)) if options.state_dir else None
    good = _resume(loop, folder)
    device = next(loop.learned.parameters()).device
    with Progress(loop.name, loop.steps, start=good.step) as progress:
        for step, (images, labels) in enumerate(_data(train, loop.steps, options, good.step), good.step + 1):
            seed_step(options.seed, step)
            value, figures = loop.loss((step - 1) / max(loop.steps - 1, 1), images.to(device), labels.to(device))
            loop.optimizer.zero_grad()
            value.backward()
            norm = loop.before(step) if loop.before else 0.0
            if not (math.isfinite(value.item()) and math.isfinite(norm)):
                _restore(loop, good)
                raise XPrunerError(_diverged(loop.name, step, value.item(), norm, good.step))
            loop.optimizer.step()
            if loop.after:
                loop.after(step)
            progress.advance(len(images), loss=value.item(), **figures)
            if options.on_step:
                options.on_step(step, {"loss": value.item(), **figures})
            if folder and (step % options.checkpoint_every == 0 or step == loop.steps):
                good = _snapshot(loop, step)
                folder.write(good)


def _diverged(name: str, step: int, loss: float, norm: float, good: int) -> str:
    what, number = ("gradients", norm) if math.isfinite(loss) else ("loss", loss)
    return (
        f"The {what} of {name} became {number} at step {step}; the state of step {good} is kept: lower the learning "
        "rate, or use precision fp32."
    )


def _data(train: Dataset, steps: int, options: LoopOptions, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = min(options.batch_size, len(train))  # type: ignore[arg-type]
    per_epoch = len(train) // size  # type: ignore[arg-type]
    step = start
    while step < steps:
        epoch, first = divmod(step, per_epoch)
        loader = batches(
            train, size, seed=options.seed, epoch=epoch, start=first, drop_last=True, workers=options.workers
        )
        for batch in loader:
            if step == steps:
                return
            yield batch
            step += 1


def _identity(loop: Loop, options: LoopOptions) -> dict[str, Any]:
    own = {"search": loop.name, "steps": loop.steps, "batch size": options.batch_size, "seed": options.seed}
    return own | {"precision": options.precision} | loop.identity


def _snapshot(loop: Loop, step: int) -> Snapshot:
    tensors = {f"learned.{name}": tensor for name, tensor in loop.learned.state_dict().items()}
    return Snapshot(step, on_cpu(tensors | optimizer_tensors(loop.optimizer)))


def _restore(loop: Loop, snapshot: Snapshot) -> None:
    loop.learned.load_state_dict(snapshot.part("learned"))
    restore_optimizer(loop.optimizer, snapshot)


def _resume(loop: Loop, folder: StateFolder | None) -> Snapshot:
    found = folder.read() if folder else None
    if found is None:
        return _snapshot(loop, 0)
    _restore(loop, found)
    return found
