"""Compensation: closed-form least squares on the consumers of what was pruned, so that less accuracy is lost."""

from collections.abc import Sequence

from torch import nn

from xpruner.calibration.moments import Batches, consumer_moments
from xpruner.compensation.consumers import Consumer, consumers_to_fit
from xpruner.compensation.sequential import fit_in_order
from xpruner.compensation.solve import add_to, affine_prediction
from xpruner.config import CompensateConfig
from xpruner.config.checks import check
from xpruner.plan.plan import Plan
from xpruner.runtime.modes import evaluating
from xpruner.units import Units


def compensate(
    pruned: nn.Module,
    dense: nn.Module,
    plan: Plan,
    batches: Batches,
    config: CompensateConfig | None = None,
    *,
    precision: str = "fp32",
) -> nn.Module:
    """Changes the weights and biases that read the kept units so that they compensate for the removed ones.

    Needs no labels and no gradients. ``affine`` and ``mean`` fit every consumer on the dense model's activations and
    are exact when the removed units are an affine function of the kept ones; ``sequential`` fits the consumers in
    forward order, each on the input that it has in the pruned model, and at last the classifier. Of ``heal`` this is
    the closed form that it begins with, enough to search by; :func:`xpruner.compensation.heal.heal` does it in full.

    Args:
        pruned: ``apply(dense, plan)``; changed in place.
        dense: The dense model.
        plan: What was kept.
        batches: Calibration images, normalised; labels are not read.
        config: The mode and the least ridge.
        precision: Of the forward passes; the solves are float64 always.

    Returns:
        The pruned model.

    Raises:
        UsageError: If ``focus`` is out of range.
        XPrunerError: If the statistics are not finite.
    """
    config = config or CompensateConfig()
    check(config, "compensate.")
    if config.mode == "none":
        return pruned
    consumers = consumers_to_fit(pruned, dense, plan)
    with evaluating(dense), evaluating(pruned):
        if config.mode in ("sequential", "heal"):
            fit_in_order(consumers, pruned, dense, batches, config, precision)
        else:
            _fit_on_dense(consumers, dense, batches, config, precision)
    return pruned


def _fit_on_dense(
    consumers: Sequence[Consumer], dense: nn.Module, batches: Batches, config: CompensateConfig, precision: str
) -> None:
    """Fits every consumer that lost units on the dense model's activations."""
    cut = [consumer for consumer in consumers if len(consumer.removed)]
    groups = tuple(group for consumer in cut for group in consumer.groups)
    moments = consumer_moments(dense, Units(groups, 0, 0, (0, 0, 0)), batches, precision)
    for consumer in cut:
        found = moments[consumer.groups[0].key]
        weight = consumer.source.weight.detach().double().cpu().flatten(1)[consumer.outputs][:, consumer.removed]
        predict = affine_prediction(found, consumer.kept, consumer.removed, config)
        bias = weight @ (found.mean[consumer.removed] - predict @ found.mean[consumer.kept])
        add_to(consumer.target, weight @ predict, bias, consumer.path)
