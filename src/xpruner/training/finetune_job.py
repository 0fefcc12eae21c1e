"""The task of one fine-tuning run: the data in their order, and the loss on a batch."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from xpruner.config import FinetuneConfig
from xpruner.config.checks import check
from xpruner.data import batches
from xpruner.errors import UsageError
from xpruner.runtime.devices import autocast
from xpruner.runtime.outputs import logits_of
from xpruner.training.features import capture_block_outputs, feature_loss, last_block
from xpruner.training.losses import finetune_loss
from xpruner.training.options import LoopOptions

WITHOUT_EFFECT = ("checkpoint_every", "cuda_graph")
"""Options of the recipe that do not affect the weights."""


@dataclass(frozen=True)
class FinetuneJob:
    """A recipe on a training set.

    Attributes:
        place: Devices and processes.
        train: Pairs of an image and a class index, of known length.
        config: The recipe.
        options: Batches, seed and precision.
        stream: Numbers of the channels of the teacher's residual stream that the student kept, on the device; None for
            all.
    """

    place: Accelerator
    train: Dataset
    config: FinetuneConfig
    options: LoopOptions
    stream: Tensor | None = None

    @property
    def images(self) -> int:
        """Images to train on."""
        return len(self.train)  # type: ignore[arg-type]

    @property
    def batch_size(self) -> int:
        """Images a step, over all processes."""
        return min(self.options.batch_size, self.images)

    @property
    def epoch_steps(self) -> int:
        """Steps in an epoch; the images that do not fill a last one are dropped until the next epoch's order."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.epoch_steps * self.config.epochs if self.config.steps is None else self.config.steps

    def check(self) -> None:
        """Raises UsageError where the recipe, the batches or the precision cannot work."""
        check(self.config, "finetune.")
        size, processes = self.batch_size, self.place.num_processes
        if size < 1:
            raise UsageError(f"A step of {size} images, of {self.images}, trains nothing; both must be 1 or more.")
        if size % processes:
            raise UsageError(f"A step of {size} images cannot be split over {processes} processes; choose a multiple.")
        if (self.config.mixup or self.config.cutmix) and size // processes % 2:
            raise UsageError(
                f"Mixup and cutmix pair the images of a batch, and {size // processes} is odd; make it even."
            )
        if self.options.seed < 0:
            raise UsageError(f"The seed is {self.options.seed}; it must be 0 or more.")
        autocast(self.options.precision, self.place.device)

    def identity(self, student: nn.Module) -> dict[str, Any]:
        """Returns what two runs must share for one to resume the other."""
        config = {key: value for key, value in asdict(self.config).items() if key not in WITHOUT_EFFECT}
        shapes = str([(name, tensor.shape) for name, tensor in student.state_dict().items()])
        return {
            **config,
            "seed": self.options.seed,
            "batch size": self.batch_size,
            "precision": self.options.precision,
            "images": self.images,
            "student shapes": hashlib.sha256(shapes.encode()).hexdigest()[:12],
        }

    def data(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images (batch, channels, height, width) and labels (batch,) of every step from ``start`` on."""
        for epoch in range(start // self.epoch_steps, -(-self.steps // self.epoch_steps)):
            first = max(start - epoch * self.epoch_steps, 0)
            loader = batches(
                self.train,
                self.batch_size,
                seed=self.options.seed,
                epoch=epoch,
                start=first,
                drop_last=True,
                workers=self.options.workers,
            )
            prepared = self.place.prepare_data_loader(loader)
            prepared.set_epoch(epoch)  # accelerate would set epoch 0 each time
            yield from islice(prepared, self.steps - epoch * self.epoch_steps - first)

    def loss(self, student: nn.Module, teacher: nn.Module | None, images: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of a batch; targets are class indices (batch,) or soft targets (batch, classes)."""
        weight = self.config.features
        compared = [self.place.unwrap_model(student), teacher] if weight and teacher is not None else []
        block = last_block(compared[-1]) if compared else ""
        with autocast(self.options.precision, self.place.device), capture_block_outputs(compared, block) as features:
            logits = logits_of(student(images))
            with torch.no_grad():
                wanted = logits_of(teacher(images)).float() if teacher is not None else None
        loss = finetune_loss(logits.float(), targets, wanted, self.config)
        return loss + weight * feature_loss(features[0], features[1], self.stream) if features else loss
