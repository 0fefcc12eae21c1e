"""Healing: every weight that is left is tuned, block by block, so that the pruned network follows the dense one."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from xpruner.calibration.incremental_forward import IncrementalForward, block_around
from xpruner.calibration.moments import Batches
from xpruner.calibration.sensitivity import token_weights
from xpruner.compensation.block_healing import heal_block
from xpruner.compensation.consumers import Consumer, consumers_to_fit
from xpruner.compensation.descent import Descent
from xpruner.compensation.healing_state import HealingState
from xpruner.compensation.joint_healing import heal_jointly
from xpruner.compensation.sequential import fit_classifier, fit_to_stream
from xpruner.config import CompensateConfig
from xpruner.config.checks import check
from xpruner.errors import UsageError
from xpruner.plan.plan import Plan
from xpruner.runtime.modes import evaluating
from xpruner.runtime.outputs import classifiers, tensors_of
from xpruner.runtime.progress import Progress

log = logging.getLogger("xpruner")

MOST_VALUES = 2**28
"""Numbers of a stream that are stored at most; healing holds about five streams, 1 GiB each in float32."""
HELD_OUT = 0.1
"""Share of the calibration images that decide which state is the best, and from which nothing is learned."""


def heal(
    pruned: nn.Module,
    dense: nn.Module,
    plan: Plan,
    batches: Batches,
    config: CompensateConfig | None = None,
    *,
    seed: int = 0,
    precision: str = "fp32",
    state_dir: Path | None = None,
) -> nn.Module:
    """Compensates in closed form, and then tunes all weights that are left; needs images, but no labels.

    Block by block in forward order: the consumers of a block are fitted as in ``sequential``, then all its parameters
    are tuned by Adam so that its output comes closest to the dense model's stream, given the healed stream before it
    (block reconstruction, as in quantisation: Li et al. 2021). At last the whole network is tuned on the dense logits.
    The last tenth of the images decides, block by block, which state is kept; where no step helps it is the closed
    form. A block that cannot be followed, as its output has another shape, is tuned with the whole network alone.

    Args:
        pruned: ``apply(dense, plan)``; changed in place.
        dense: The dense model.
        plan: What was kept.
        batches: Calibration images, normalised; labels are not read.
        config: Steps and rate, ridge and focus.
        seed: Of the order in which images are drawn.
        precision: Of the forward passes.
        state_dir: Where the network is kept after every block, so that healing that was stopped goes on.

    Returns:
        The pruned model.

    Raises:
        UsageError: If an option is out of range, there are too few images, or the state belongs to other options.
        XPrunerError: If the statistics are not finite, or the disk is full.
    """
    config = config or CompensateConfig("heal")
    check(config, "compensate.")
    images = [batch for batch, _ in batches]
    state = HealingState(state_dir, {**asdict(config), "seed": seed, "precision": precision})
    with evaluating(dense), evaluating(pruned):
        _Healing(pruned, dense, plan, config, seed, precision, state).run(images)
    return pruned


class _Healing:
    """One network being healed."""

    def __init__(
        self,
        pruned: nn.Module,
        dense: nn.Module,
        plan: Plan,
        config: CompensateConfig,
        seed: int,
        precision: str,
        state: HealingState,
    ):
        self.pruned, self.dense, self.plan, self.config = pruned, dense, plan, config
        self.seed, self.precision, self.state = seed, precision, state

    def run(self, images: list[Tensor]) -> None:
        """Heals the blocks in forward order, and then the whole network."""
        consumers = consumers_to_fit(self.pruned, self.dense, self.plan)
        blocks = [(block, list(found)) for block, found in groupby(consumers, self._block)]
        learned, held_out = split(affordable(images, self.dense, [block for block, _ in blocks]))
        weights = self._token_weights(consumers, learned)
        done = self.state.restore(self.pruned)
        steps, last = self.config.steps, len(blocks)
        passes = self._passes(learned), self._passes(held_out)
        with Progress("healing", (last + 1) * steps, start=done * steps) as progress:
            for number, (block, fitted) in list(enumerate(blocks))[done:]:
                for consumer in fitted:
                    fit_to_stream(consumer, *passes[0], self.config.ridge, weights.get(consumer.path))
                heal_block(block, passes, self.plan, weights.get(fitted[-1].path), self._descent(number), progress)
                self.state.write(self.pruned, number + 1)
            for path in classifiers(self.dense):
                fit_classifier(path, *passes[0], self.config.ridge)
            both = learned, held_out
            heal_jointly(self.pruned, self.dense, both, self._descent(last), self.precision, progress)

    def _block(self, consumer: Consumer) -> str:
        return block_around(self.dense, [consumer.branch])

    def _passes(self, images: list[Tensor]) -> tuple[IncrementalForward, IncrementalForward]:
        pruned, dense = (IncrementalForward(model, images, self.precision) for model in (self.pruned, self.dense))
        return pruned, dense

    def _token_weights(self, consumers: Sequence[Consumer], images: list[Tensor]) -> dict[str, Tensor]:
        batches = [(batch, batch.new_zeros(len(batch))) for batch in images]
        paths = [consumer.path for consumer in consumers]
        return token_weights(self.dense, paths, batches, self.config.focus or 0.0, precision=self.precision)

    def _descent(self, part: int) -> Descent:
        return Descent(self.config.steps, self.config.lr, self.seed, part)


@torch.no_grad()
def affordable(batches: Sequence[Tensor], dense: nn.Module, blocks: Sequence[str]) -> list[Tensor]:
    """Returns batches of as many images as can be stored in the widest stream before a block, and logs if some cannot.

    Args:
        batches: Of images.
        dense: The dense model, in eval mode.
        blocks: Paths of the blocks, in forward order; "" for what belongs to none.
    """
    one = IncrementalForward(dense, [batches[0][:1]], "fp32")
    streams = [tensors_of(one.calls_of(block)[0][0])[:1] for block in blocks if block]
    most = MOST_VALUES // max([stream.numel() for found in streams for stream in found], default=1)
    count = sum(len(batch) for batch in batches)
    if most < count:
        log.warning("Healing uses the first %d of %d calibration images, as it stores streams.", most, count)
    return list(_part(batches, 0, most))


def split(batches: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Returns batches of the images to learn from, and of the last tenth, at least one image.

    Raises:
        UsageError: If there are fewer than two images.
    """
    count = sum(len(batch) for batch in batches)
    if count < 2:
        raise UsageError(f"Healing needs two calibration images or more, and there are {count}.")
    border = count - max(1, round(HELD_OUT * count))
    return list(_part(batches, 0, border)), list(_part(batches, border, count))


def _part(batches: Sequence[Tensor], start: int, end: int) -> Iterator[Tensor]:
    """Yields what of the batches lies between two numbers of images."""
    first = 0
    for batch in batches:
        part = batch[max(start - first, 0) : max(end - first, 0)]
        if len(part):
            yield part
        first += len(batch)
