"""Tuning the whole network on the dense logits, after its blocks."""

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.compensation.descent import Descent, descend, only_trained
from xpruner.runtime.devices import autocast
from xpruner.runtime.outputs import logits_of
from xpruner.runtime.progress import Progress

log = logging.getLogger("xpruner")

CHUNK = 64


def heal_jointly(
    pruned: nn.Module,
    dense: nn.Module,
    images: tuple[list[Tensor], list[Tensor]],
    how: Descent,
    precision: str,
    progress: Progress,
) -> None:
    """Tunes all parameters, in place, by KL(dense || pruned) on the logits.

    Args:
        pruned: The network, its blocks healed.
        dense: The dense network.
        images: Batches to learn from, and batches held out, which decide which state is kept.
        how: Steps, rate and seed.
        precision: Of the forward passes.
        progress: Told of every step.
    """
    learned, held_out = images
    device = next(pruned.parameters()).device

    def logits(model: nn.Module, images: Tensor) -> Tensor:
        with autocast(precision, device):
            return logits_of(model(images.to(device))).float()

    with torch.no_grad():
        wanted = torch.cat([logits(dense, batch) for batch in learned])
        wanted_held_out = torch.cat([logits(dense, batch) for batch in held_out])
    stacked = torch.cat(learned)

    @torch.no_grad()
    def measure() -> float:
        return divergence(torch.cat([logits(pruned, batch) for batch in held_out]), wanted_held_out).item()

    parameters = list(pruned.parameters())
    with only_trained(pruned, parameters):
        before, after = descend(
            parameters,
            lambda chosen: divergence(logits(pruned, stacked[chosen]), wanted[chosen]),
            measure,
            len(stacked),
            how,
            progress,
        )
    log.info("healing: KL to the dense model %.4f after its blocks, %.4f after the whole", before, after)


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """Returns KL(theirs || ours) of logits (images, classes), averaged over the images."""
    return F.kl_div(F.log_softmax(ours, -1), F.log_softmax(theirs, -1), reduction="batchmean", log_target=True)
