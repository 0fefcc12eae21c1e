"""Activation norm: a unit's score is the norm of its output, whatever the weights of its consumer.

The norm is squared, so that it adds up over a unit's channels, as its cost does [our choice]; the order within a layer
is unchanged. By its own allocation every layer keeps the same share, because activations of different layers differ in
scale.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from xpruner.calibration.moments import Moments, consumer_moments
from xpruner.errors import UsageError
from xpruner.methods._problem import Problem
from xpruner.methods._scoring import Scores, register_score
from xpruner.runtime.modes import evaluating

ChannelScore = Callable[[Moments, Tensor], Tensor]
"""From the moments of a consumer's input and its (channels, weights) columns to (channels,) scores."""


def check_consumers(problem: Problem) -> None:
    """Raises UsageError where units have no consumer, such as blocks and query-key dimensions."""
    for group in problem.units:
        if group.consumer is None:
            raise UsageError(
                f"{problem.config.method!r} scores units at their consumer and {group.key!r} has none; "
                "prune kinds of unit that have one, such as head and hidden, or take another method."
            )


@register_score("activation_norm", allocation="uniform", check=check_consumers)
def activation_norm(problem: Problem) -> Scores:
    """Returns for each unit the mean square, over tokens, of the vector of its channels."""
    return sum_over_channels(problem, lambda moments, _columns: mean_square(moments))


def sum_over_channels(problem: Problem, score: ChannelScore) -> Scores:
    """Returns for each unit the sum of a score over its channels of the consumer's input."""
    return {key: channels.sum(1) for key, channels in score_channels(problem, score).items()}


def score_channels(problem: Problem, score: ChannelScore) -> Scores:
    """Returns for each group's key (units, channels of one) scores of the units' channels of the consumer's input.

    Args:
        problem: Of groups that :func:`check_consumers` accepts.
        score: Of each channel.
    """
    model, units = problem.model, problem.units
    with evaluating(model):
        moments = consumer_moments(model, units, problem.calibration, problem.config.precision)
    scores: Scores = {}
    for path, groups in units.of_consumers().items():
        channels = score(moments[groups[0].key], columns(model.get_submodule(path)))
        scores |= {group.key: channels[group.channels] for group in groups}
    return scores


def columns(layer: Any) -> Tensor:
    """Returns (input channels, weights): the weights of a linear layer or convolution that read each channel."""
    weight = layer.weight.detach().double().cpu()
    return weight.unflatten(0, (getattr(layer, "groups", 1), -1)).transpose(1, 2).flatten(0, 1).flatten(1)


def mean_square(moments: Moments) -> Tensor:
    """Returns the (channels,) mean of x squared."""
    return moments.second.diagonal()


def variance(moments: Moments) -> Tensor:
    """Returns the (channels,) variance of x, clamped at zero against rounding."""
    return (mean_square(moments) - moments.mean.square()).clamp(min=0)
