"""Fine-tuning: a student learns from a dense teacher and from labels, and resumes where it was stopped."""

import math
from collections.abc import Sequence
from dataclasses import replace
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
from xpruner.training.options import LoopOptions
from xpruner.training.recipe import make_mixup
from xpruner.training.state import StateFolder
from xpruner.training.step import make_step
from xpruner.training.train_state import Checkpointer, TrainState


def finetune(
    student: nn.Module,
    teacher: nn.Module | None,
    train: Dataset,
    config: FinetuneConfig,
    options: LoopOptions = LoopOptions(),  # noqa: B008, it is frozen
    *,
    stream: Sequence[int] | None = None,
) -> nn.Module:
    """Trains the student in place and returns it in eval mode, with averaged weights when ``ema_decay`` is positive.

    A stopped run resumes from ``state_dir`` and ends with the weights of an uninterrupted one: bit for bit on a CPU,
    because the randomness of a step depends only on the seed and the step. Without a teacher, and with ``distill`` 0,
    this is plain training on labels. Both models are moved to accelerate's device.

    Args:
        student: Takes images (batch, channels, height, width), returns logits (batch, classes).
        teacher: The dense model, with the same classes; used in eval mode and without gradients.
        train: Pairs of an image and a class index; its ``set_epoch`` is called where it has one.
        config: The recipe.
        options: Batches, seed, precision and state. The figures of a step are its ``loss``, ``lr`` and ``grad_norm``.
        stream: Channels of the teacher's residual stream that the student kept, for ``features``; all when absent.

    Raises:
        UsageError: If a value is out of range, or ``state_dir`` belongs to another configuration or seed.
        XPrunerError: If the loss is not finite (the student has its last good weights again), or the disk is full.
    """
    place = accelerator()
    options = replace(options, precision=resolve_precision(options.precision, place.device))
    channels = None if stream is None else torch.tensor(list(stream), device=place.device)
    job = FinetuneJob(place, train, config, options, channels)
    job.check()
    if config.distill > 0 and teacher is None:
        raise UsageError(f"finetune.distill is {config.distill} but there is no teacher; pass one, or set it to 0.")
    if job.steps == 0:
        return student.eval()
    state = TrainState(student, config, job.steps, options.precision, place)
    folder = StateFolder(Path(options.state_dir), job.identity(student)) if options.state_dir is not None else None
    _train(job, state, Checkpointer(state, folder, place), teacher if config.distill > 0 else None)
    return state.finish()


def _train(job: FinetuneJob, state: TrainState, checkpointer: Checkpointer, teacher: nn.Module | None) -> None:
    main, start = job.place.is_main_process, checkpointer.good.step
    mixup, compute = make_mixup(state.student, job.config), make_step(job, state, teacher)
    state.student.train()
    if teacher is not None:
        teacher.to(job.place.device)
    with evaluating(teacher), Progress("fine-tuning", job.steps, start=start, enabled=main) as progress:
        for step, (images, labels) in enumerate(job.data(start), start + 1):
            seed_step(job.options.seed, step, job.place.process_index)
            images, targets = mixup(images, labels) if mixup else (images, labels)
            loss = compute(images, targets)
            norm = state.clip()
            mean = job.place.reduce(loss, reduction="mean").item()
            if not (math.isfinite(mean) and math.isfinite(norm)):
                state.restore(checkpointer.good)
                raise XPrunerError(_diverged(step, mean, norm, checkpointer, job))
            rate = state.update(step)
            progress.advance(job.batch_size, loss=mean, lr=rate)
            if job.options.on_step is not None and main:
                job.options.on_step(step, {"loss": mean, "lr": rate, "grad_norm": norm})
            if step % job.config.checkpoint_every == 0 or step % job.epoch_steps == 0 or step == job.steps:
                checkpointer.keep(step)


def _diverged(step: int, loss: float, norm: float, checkpointer: Checkpointer, job: FinetuneJob) -> str:
    what = f"gradients became {norm}" if math.isfinite(loss) else f"loss became {loss}"
    where = checkpointer.folder.folder if checkpointer.folder is not None else "the model"
    other = {"fp32": "", "bf16": ", or use precision fp32", "fp16": ", or use precision bf16 or fp32"}[
        job.options.precision
    ]
    return (
        f"The {what} at step {step}; the last good state, of step {checkpointer.good.step}, is kept in {where}: "
        f"lower finetune.lr, now {job.config.lr:g}{other}."
    )
