"""A tiny run, which may kill its own process at a given place.

The place is ``search:N`` or ``finetune:N`` (after the N-th update, counted over the stage), ``heal:N`` (when N blocks
are healed) or ``stage:NAME`` (when that stage has computed its figures, before they are recorded).
"""

import os
import signal
from dataclasses import replace

import torch

from xpruner.compensation.healing_state import HealingState
from xpruner.config import (
    CompensateConfig,
    DataConfig,
    FinetuneConfig,
    MaskConfig,
    ModelConfig,
    RunConfig,
    ThresholdConfig,
)
from xpruner.run import pipeline
from xpruner.run.folder import Run
from xpruner.run.tracking import Tracker

TINY = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "drop_path_rate": 0.1}


def tiny_run(output: str) -> RunConfig:
    return RunConfig(
        output=output,
        model=ModelConfig("vit_tiny_patch16_224", img_size=16, kwargs=TINY),
        data=DataConfig("digits", train_size=160, test_size=60, calibration_size=64, batch_size=32),
        units=["head", "hidden"],
        rounds=2,
        masks=MaskConfig(steps=4),
        thresholds=ThresholdConfig(steps=6, refit_every=4),
        finetune=FinetuneConfig(epochs=2, checkpoint_every=2, mixup=0.2, ema_decay=0.9),
        precision="fp32",
        latency=[],
    )


def die_at(where: str) -> None:
    kind, place = where.split(":")

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if kind == "stage":
        stage = Run.stage

        def patched(self, name, compute):
            return stage(self, name, lambda: (compute(), die() if name == place else None)[0])

        Run.stage = patched
        return
    if kind == "heal":
        keep = HealingState.write
        HealingState.write = lambda self, model, done: (keep(self, model, done), die() if done == int(place) else None)
        return
    scalars, count = Tracker.scalars, [0]

    def counting(self, prefix):
        write = scalars(self, prefix)

        def step(number, figures):
            write(number, figures)
            count[0] += prefix == kind
            if prefix == kind and count[0] == int(place):
                die()

        return step

    Tracker.scalars = counting


def heal(output: str, where: str | None = None) -> None:
    """Runs it in this process with healing and without fine-tuning, and dies where it is said."""
    mode, training = CompensateConfig("heal", steps=10), FinetuneConfig(epochs=0)
    run(output, where, replace(tiny_run(output), method="l2", compensate=mode, finetune=training))


def run(output: str, where: str | None = None, config: RunConfig | None = None) -> None:
    """Runs it in this process, and dies where it is said."""
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the dense model's random weights
    if where is not None:
        die_at(where)
    pipeline.run_pipeline(config or tiny_run(output))
