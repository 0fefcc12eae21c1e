"""Tuning the whole network on what the dense one puts out, after its blocks."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.compensation.descent import Descent, descend, only_trained
from xpruner.runtime.devices import autocast
from xpruner.runtime.outputs import classifiers, tensors_of
from xpruner.runtime.progress import Progress

log = logging.getLogger("xpruner")

Loss = Callable[[Tensor, Tensor], Tensor]
"""From the outputs of the healed and of the dense network for the same images to a loss."""


def heal_jointly(
    pruned: nn.Module,
    dense: nn.Module,
    images: tuple[list[Tensor], list[Tensor]],
    how: Descent,
    precision: str,
    progress: Progress,
) -> None:
    """Tunes all parameters, in place, on the dense logits; on the first output of a model that is no classifier.

    Nothing is done where that output has another shape, as that of a headless model with fewer embedding channels.

    Args:
        pruned: The network, its blocks healed.
        dense: The dense network.
        images: Batches to learn from, and batches held out, which decide which state is kept.
        how: Steps, rate and seed.
        precision: Of the forward passes.
        progress: Told of every step.
    """
    device = next(pruned.parameters()).device

    def output(model: nn.Module, batch: Tensor) -> Tensor:
        with autocast(precision, device):
            return tensors_of(model(batch.to(device)))[0].float()

    with torch.no_grad():
        wanted, wanted_held_out = (torch.cat([output(dense, batch) for batch in part]) for part in images)
        ours = output(pruned, images[1][0])
    if ours.shape[1:] != wanted.shape[1:]:
        log.info("healing: the whole network is left as its blocks are, as its output has another shape")
        return
    learned, held_out, loss = torch.cat(images[0]), images[1], loss_of(dense, wanted)

    @torch.no_grad()
    def measure() -> float:
        return loss(torch.cat([output(pruned, batch) for batch in held_out]), wanted_held_out).item()

    parameters = list(pruned.parameters())
    with only_trained(pruned, parameters):
        before, after = descend(
            parameters,
            lambda chosen: loss(output(pruned, learned[chosen]), wanted[chosen]),
            measure,
            len(learned),
            how,
            progress,
        )
    log.info("healing: the whole network is %.4f from the dense one after its blocks, %.4f in the end", before, after)


def loss_of(dense: nn.Module, wanted: Tensor) -> Loss:
    """Returns the divergence of logits for a classifier, and else the distance as a share of the variance."""
    if classifiers(dense) and wanted.ndim == 2:
        return divergence
    scale = (wanted - wanted.mean(0)).square().mean().clamp(min=1e-12)
    return lambda ours, theirs: (ours - theirs).square().mean() / scale


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """Returns KL(theirs || ours) of logits (images, classes), averaged over the images."""
    return F.kl_div(F.log_softmax(ours, -1), F.log_softmax(theirs, -1), reduction="batchmean", log_target=True)
