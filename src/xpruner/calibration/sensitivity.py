"""Sensitivity of the logits to the tokens of a layer's output, place by place."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xpruner.calibration.moments import Batches, channels_last
from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import capture_outputs
from xpruner.runtime.modes import frozen
from xpruner.runtime.outputs import logits_of


def token_weights(
    model: nn.Module, paths: Sequence[str], batches: Batches, focus: float, *, precision: str = "fp32"
) -> dict[str, Tensor]:
    """Returns for each layer how much a row of its output counts, by its place in the image: (rows,) with mean 1.

    In the last blocks of a model with a class token next to nothing that happens to the other tokens reaches the
    logits. A place's sensitivity is the squared gradient of the centred logits at the rows there, summed over channels
    and logits and averaged over the images: what a squared error costs there, to first order. The sum over the logits
    is estimated by random signs (Hutchinson 1989). Weights are focus x sensitivity / its mean + 1 - focus [our choice].

    Args:
        model: The dense model; as it was afterwards.
        paths: Of its layers.
        batches: Calibration images; labels are not read.
        focus: Share of the weights that follows the sensitivity, from 0 (all alike) to 1.
        precision: Of the forward and backward pass.
    """
    if focus == 0 or not paths:
        return {}
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[Tensor]] = {path: [] for path in paths}
    with frozen(model), capture_outputs(model, paths) as outputs:
        for images, _ in batches:
            with autocast(precision, device):
                logits = logits_of(model(images.to(device).requires_grad_())).float()
            signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits) * 2 - 1
            centred = logits - logits.mean(-1, keepdim=True)
            watched = [outputs[path] for path in paths]
            gradients = torch.autograd.grad((signs * centred).sum(), watched, materialize_grads=True)
            for path, gradient in zip(paths, gradients, strict=True):
                rows = channels_last(model.get_submodule(path), gradient).float().square().sum(-1)
                found[path].append(rows.reshape(len(images), -1).cpu())
    return {path: _weights(torch.cat(rows).mean(0), focus) for path, rows in found.items()}


def _weights(sensitivity: Tensor, focus: float) -> Tensor:
    mean = sensitivity.mean()
    if not mean > 0:
        return torch.ones_like(sensitivity)
    return focus * sensitivity / mean + 1 - focus
