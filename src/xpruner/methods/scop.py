"""SCOP (Tang et al., NeurIPS 2020), SCOP-style: a unit's score is its preference for real images over knockoffs.

Kept: the weights are frozen; every unit mixes its output on an image with its output on the image's knockoff, and
learns the proportion; its score is |scale| (beta - (1 - beta)), and the lowest of each layer are pruned. Adapted [our
choice]: the units are heads and hidden units instead of filters, mixed at the input of their consumer; the scale is the
norm of the consumer's weights instead of a batch norm's; and the knockoffs are other images of the batch with scrambled
phases instead of a GAN's.
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
"""Learning rate of Adam, the paper's; an update moves a share by at most about as much."""
TRAVEL = 2.4
"""How far a share can move in a whole search: the paper's rate times 600 updates; the start is 0.5 from either end.
Shorter searches compensate by a higher rate [our choice]."""


def check_consumers(problem: Problem) -> None:
    """Raises UsageError where units have no single consumer at which knockoffs can be mixed, or in fp16."""
    check_training(problem)
    for group in problem.units:
        if group.consumer is None:
            raise UsageError(
                f"scop mixes units at the input of their consumer, and the {group.kind} units of {group.module!r} have "
                "no single consumer; leave them out, or choose another method."
            )


@register_score("scop", allocation="uniform", check=check_consumers)
def scop(problem: Problem) -> Scores:
    """Returns for each unit the :func:`score` of its scale and its learned share of the real images."""
    model, units = problem.model, problem.units
    shares = _learn_shares(problem)
    return {
        group.key: score(scale(model.get_submodule(group.gates[0].path), group), shares[group.key]) for group in units
    }


def rate(steps: int) -> float:
    """Returns the learning rate of a search of this many updates."""
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
    """Returns images (batch, channels, height, width) of no class: each has another's amplitudes and random phases.

    All channels get the same phases, which keeps colours together; the mean is unchanged.
    """
    noise = torch.rand(len(images), 1, *images.shape[2:], device=images.device)
    turned = torch.fft.rfft2(images[torch.randperm(len(images))]) * torch.fft.rfft2(noise).sgn()
    return torch.fft.irfft2(turned, images.shape[2:])


def mixing(model: nn.Module, units: Units, shares: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Mixes each unit's output on real images with that on their knockoffs while the block runs.

    Args:
        model: Called with the real images followed by as many knockoffs, in the same order.
        units: Its groups, each with a consumer.
        shares: For a group's key (units,) shares of the real images; the knockoffs' own half is unchanged.
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
