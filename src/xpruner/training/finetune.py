"""Fine-tuning: a student learns from a dense teacher and from labels, and goes on where it was stopped."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from xpruner.config import FinetuneConfig
from xpruner.errors import UsageError, XPrunerError
from xpruner.runtime.devices import accelerator, seed_step
from xpruner.runtime.modes import evaluating
from xpruner.runtime.precision import resolve_precision
from xpruner.runtime.progress import Progress
from xpruner.training.finetune_job import FinetuneJob
from xpruner.training.recipe import make_mixup
from xpruner.training.state import StateFolder
from xpruner.training.step import make_step
from xpruner.training.train_state import Checkpointer, TrainState

OnStep = Callable[[int, dict[str, float]], None]


def finetune(
    student: nn.Module,
    teacher: nn.Module | None,
    train: Dataset,
    config: FinetuneConfig,
    *,
    batch_size: int = 64,
    workers: int = 0,
    seed: int = 0,
    precision: str = "fp32",
    stream: Sequence[int] | None = None,
    state_dir: str | Path | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    """Trains the student in place and returns it in eval mode, with averaged weights when ``ema_decay`` is positive.

    A run that was stopped goes on from ``state_dir`` and ends with the weights of one that never was: on a CPU bit by
    bit, since all randomness of a step depends on the seed and the step alone. Without a teacher, and with ``distill``
    0, this is plain training on labels. Both models are moved to accelerate's device.

    Args:
        student: Takes images (batch, channels, height, width), returns logits (batch, classes).
        teacher: The dense model, with the same classes; used in eval mode and without gradients.
        train: Pairs of an image and a class index; its ``set_epoch`` is called where it has one.
        config: The recipe.
        batch_size: Images a step, over all processes; all images where there are fewer.
        workers: Loader processes.
        seed: Of the data order, mixup, dropout and drop path.
        precision: Of the forward passes: ``fp32``, ``bf16``, ``fp16`` on a GPU, or ``auto`` for the faster of the first
            two.
        stream: Channels of the teacher's residual stream that the student kept, for ``features``; all when absent.
        state_dir: Where the training state is kept; absent, nothing is stored.
        on_step: Called in the first process after every update, with the number of updates made and their ``loss``,
            ``lr`` and ``grad_norm``.

    Raises:
        UsageError: If a value is out of range, or ``state_dir`` belongs to another configuration or seed.
        XPrunerError: If the loss is not finite (the student has its last good weights again), or the disk is full.
    """
    place = accelerator()
    precision = resolve_precision(precision, place.device)
    channels = None if stream is None else torch.tensor(list(stream), device=place.device)
    job = FinetuneJob(place, train, config, batch_size, workers, seed, precision, channels)
    job.check()
    if config.distill > 0 and teacher is None:
        raise UsageError(f"finetune.distill is {config.distill} but there is no teacher; pass one, or set it to 0.")
    if job.steps == 0:
        return student.eval()
    train_state = TrainState(student, config, job.steps, precision, job.place)
    folder = StateFolder(Path(state_dir), job.identity(student)) if state_dir is not None else None
    _train(
        job, train_state, Checkpointer(train_state, folder, job.place), teacher if config.distill > 0 else None, on_step
    )
    return train_state.finish()


def _train(
    job: FinetuneJob,
    train_state: TrainState,
    checkpointer: Checkpointer,
    teacher: nn.Module | None,
    on_step: OnStep | None,
) -> None:
    main, start = job.place.is_main_process, checkpointer.good.step
    mixup, compute = make_mixup(train_state.student, job.config), make_step(job, train_state, teacher)
    train_state.student.train()
    if teacher is not None:
        teacher.to(job.place.device)
    with evaluating(teacher), Progress("fine-tuning", job.steps, start=start, enabled=main) as progress:
        for step, (images, labels) in enumerate(job.data(start), start + 1):
            seed_step(job.seed, step, job.place.process_index)
            images, targets = mixup(images, labels) if mixup else (images, labels)
            loss = compute(images, targets)
            norm = train_state.clip()
            mean = job.place.reduce(loss, reduction="mean").item()
            if not (math.isfinite(mean) and math.isfinite(norm)):
                train_state.restore(checkpointer.good)
                raise XPrunerError(_diverged(step, mean, norm, checkpointer, job))
            rate = train_state.update(step)
            progress.advance(job.batch_size, loss=mean, lr=rate)
            if on_step is not None and main:
                on_step(step, {"loss": mean, "lr": rate, "grad_norm": norm})
            if step % job.config.checkpoint_every == 0 or step % job.epoch_steps == 0 or step == job.steps:
                checkpointer.keep(step)


def _diverged(step: int, loss: float, norm: float, checkpointer: Checkpointer, job: FinetuneJob) -> str:
    what = f"gradients became {norm}" if math.isfinite(loss) else f"loss became {loss}"
    where = checkpointer.folder.folder if checkpointer.folder is not None else "the model"
    other = {"fp32": "", "bf16": ", or use precision fp32", "fp16": ", or use precision bf16 or fp32"}[job.precision]
    return (
        f"The {what} at step {step}; the last good state, of step {checkpointer.good.step}, is kept in {where}: "
        f"lower finetune.lr, now {job.config.lr:g}{other}."
    )
