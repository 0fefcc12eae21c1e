"""What every training loop needs besides its model and its recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xpruner.config import RunConfig

OnStep = Callable[[int, dict[str, float]], None]
"""Called after every update with its number and its figures, such as the loss."""


@dataclass(frozen=True)
class LoopOptions:
    """How a training loop runs.

    Attributes:
        batch_size: Images a step, over all processes; all images where there are fewer.
        workers: Loader processes.
        seed: Of the data order and of all randomness in a step.
        precision: Of the forward passes: ``fp32``, ``bf16``, ``fp16`` on a GPU, or ``auto`` for the faster of the first
            two.
        state_dir: Where the training state is stored, so that a stopped loop resumes; absent, nothing is stored.
        on_step: Called in the first process after every update.
        checkpoint_every: Steps between states of a search; fine-tuning has its own in its recipe.
    """

    batch_size: int = 64
    workers: int = 0
    seed: int = 0
    precision: str = "fp32"
    state_dir: Path | None = None
    on_step: OnStep | None = None
    checkpoint_every: int = 50

    @classmethod
    def of(cls, config: RunConfig, state_dir: Path | None = None, on_step: OnStep | None = None) -> "LoopOptions":
        """Returns the options of a run's configuration."""
        return cls(
            config.data.batch_size, config.data.workers, config.seed, config.precision, state_dir, on_step,
            config.finetune.checkpoint_every,
        )  # fmt: skip
