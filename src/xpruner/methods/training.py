"""What methods share that train during their search."""

from pathlib import Path

from xpruner.learning import LoopOptions
from xpruner.methods.base import Problem

LR = 1e-4
"""Of AdamW on the weights, in searches that train them for a few hundred updates [our choice]."""


def loop_options(problem: Problem, name: str) -> LoopOptions:
    """Returns the loop of one stage of a search: its steps, batches and seed, and where its state is kept."""
    config = problem.config
    folder: Path | None = problem.state_dir / name if problem.state_dir else None
    return LoopOptions(
        steps=config.search.steps, batch_size=config.data.batch_size, seed=config.seed, workers=config.data.workers,
        state_dir=folder, checkpoint_every=config.finetune.checkpoint_every, on_step=problem.on_step,
    )  # fmt: skip
