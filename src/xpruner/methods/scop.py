"""SCOP (Tang et al., NeurIPS 2020), SCOP-style: a unit is worth how much it prefers real images to knockoffs of them.

Kept: the weights are frozen; every unit mixes what it computes of an image with what it computes of the image's
knockoff, and learns in which proportion; its score is |scale| (beta - (1 - beta)), and the least of each layer go.
Adapted [our choice]: the units are heads and hidden units instead of filters, mixed where their consumer reads them;
the scale is the norm of the consumer's weights instead of a batch norm's; and the knockoffs are other images of the
batch with scrambled phases instead of a GAN's.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.errors import UsageError
from xpruner.methods._problem import Problem
from xpruner.methods._scoring import Scores, register_score
from xpruner.methods._weight_search import check_training, identity, loop_options
from xpruner.methods.activation_norm import columns
from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import hooked
from xpruner.runtime.modes import frozen
from xpruner.runtime.outputs import logits_of
from xpruner.training.search import Loop, learn
from xpruner.units import Gate, UnitGroup, Units
from xpruner.units.gates import channel_axis, expand_gates

START = 0.5
"""Share of the real images at the start."""
LR = 4e-3
"""Of Adam, the paper's; an update moves a share by about as much at most."""
TRAVEL = 2.4
"""How far a share can move in a whole search: what the paper's rate gives in 600 updates, where 0.5 lie between the
start and either end. Shorter searches make up for it by a higher rate [our choice]."""


def check_consumers(problem: Problem) -> None:
    """Raises UsageError where units are not read by one layer, in which knockoffs could be mixed, or in fp16."""
    check_training(problem)
    for group in problem.units:
        if group.consumer is None:
            raise UsageError(
                f"scop mixes what a layer reads of its units, and the {group.kind} units of {group.module!r} are not "
                "read by one layer alone; leave them out, or choose another method."
            )


@register_score("scop", allocation="uniform", check=check_consumers)
def scop(problem: Problem) -> Scores:
    """Returns for each unit what :func:`score` makes of its scale and of its learned share of the real images."""
    model, units = problem.model, problem.units
    shares = _learn_shares(problem)
    return {
        group.key: score(scale(model.get_submodule(group.gates[0].path), group), shares[group.key]) for group in units
    }


def rate(steps: int) -> float:
    """Returns the learning rate of a search of so many updates."""
    return max(LR, TRAVEL / max(steps, 1))


def _learn_shares(problem: Problem) -> dict[str, Tensor]:
    model, config = problem.model, problem.config
    device = next(model.parameters()).device
    shares = nn.ParameterList([torch.full((group.size,), START, device=device) for group in problem.units])
    by_key = dict(zip([group.key for group in problem.units], shares, strict=True))

    def loss(_progress: float, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        both = torch.cat([images, knockoffs(images)])
        with autocast(config.precision, device), mixing(model, problem.units, by_key):
            logits = logits_of(model(both))[: len(images)]
        return F.cross_entropy(logits.float(), labels), {}

    @torch.no_grad()
    def clamp(_step: int) -> None:
        for share in shares:
            share.clamp_(0, 1)

    lr = rate(config.search.steps)
    optimizer = torch.optim.Adam(shares.parameters(), lr)
    loop = Loop("scop", shares, optimizer, loss, config.search.steps, identity(problem, lr=lr), clamp)
    with frozen(model):
        learn(loop, problem.train, loop_options(problem, "scop"))
    return {key: share.detach().cpu() for key, share in by_key.items()}


def knockoffs(images: Tensor) -> Tensor:
    """Returns images (batch, channels, height, width) of no class: each another's amplitudes with random phases.

    All channels are turned by the same phases, so that colours stay together, and the mean stays.
    """
    noise = torch.rand(len(images), 1, *images.shape[2:], device=images.device)
    turned = torch.fft.rfft2(images[torch.randperm(len(images))]) * torch.fft.rfft2(noise).sgn()
    return torch.fft.irfft2(turned, images.shape[2:])


def mixing(model: nn.Module, units: Units, shares: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Mixes each unit's output on real images with that on their knockoffs while the block runs.

    Args:
        model: Given the real images and then as many knockoffs, the n-th that of the n-th image.
        units: Its groups, each read by a consumer.
        shares: For a group's key (units,) shares of the real images; the knockoffs' own half stays as it is.
    """
    gates = ((units[key].gates[0], share) for key, share in shares.items())
    return hooked(model.get_submodule(gate.path).register_forward_pre_hook(_mix(gate, share)) for gate, share in gates)


def _mix(gate: Gate, share: Tensor):
    def hook(layer: nn.Module, args: tuple[Tensor, ...]):
        real, knockoff = args[0].chunk(2)
        mixed = torch.lerp(knockoff, real, expand_gates(share, real, gate, channel_axis(layer)))
        return (torch.cat([mixed, knockoff]), *args[1:])

    return hook


def scale(consumer: nn.Module, group: UnitGroup) -> Tensor:
    """Returns (units,) norms of the weights with which the consumer reads each unit."""
    return columns(consumer)[group.channels].flatten(1).norm(dim=1)


def score(scales: Tensor, shares: Tensor) -> Tensor:
    """Returns |scale| (beta - (1 - beta)) of (units,) scales and shares beta of the real."""
    return scales * (shares - (1 - shares))
