"""Explanation signals: where the class evidence comes from that masks start from, by name.

A signal of one's own is a function registered under a name; ``masks.evidence`` then takes that name.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from xpruner.calibration.moments import Batches, Moments
from xpruner.config import MaskConfig
from xpruner.errors import UsageError
from xpruner.masks.evidence import class_evidence, evidence_tables
from xpruner.masks.sequential_evidence import sequential_evidence
from xpruner.registry import Registry
from xpruner.units import Units

NONE = "none"


@dataclass(frozen=True)
class SignalRequest:
    """What a signal computes evidence from; it leaves the model as it is.

    Attributes:
        model: The model of this round.
        units: Its groups.
        batches: Calibration images with labels.
        num_classes: Rows of the tables.
        moments: Of the consumers' inputs, by group key; empty where the signal takes none.
        options: Of the masks.
        precision: Of the forward and backward passes.
    """

    model: nn.Module
    units: Units
    batches: Batches
    num_classes: int
    moments: dict[str, Moments]
    options: MaskConfig
    precision: str


Signal = Callable[[SignalRequest], dict[str, Tensor]]
"""Returns for each group a (classes, units) table of evidence, not negative; masks start from evidence per MAC."""


@dataclass(frozen=True)
class SignalMethod:
    """A registered signal.

    Attributes:
        signal: Makes the evidence.
        moments: Whether it takes the moments of the consumers' inputs.
    """

    signal: Signal
    moments: bool


SIGNALS: Registry[SignalMethod] = Registry("value of masks.evidence", "xpruner.signals")


def register_signal(name: str, *, moments: bool = False) -> Callable[[Signal], Signal]:
    """Registers a :data:`Signal` under a name.

    Args:
        name: The value of ``masks.evidence`` that chooses it.
        moments: Whether it takes the moments of the consumers' inputs.

    Raises:
        UsageError: If another signal has that name.
    """

    def register(signal: Signal) -> Signal:
        SIGNALS.add(name, SignalMethod(signal, moments), signal)
        return signal

    return register


def find_signal(name: str) -> Signal:
    """Returns a signal by its name.

    Raises:
        UsageError: If the name is unknown; the nearest is named.
    """
    return SIGNALS.find(name).signal


def takes_moments(name: str) -> bool:
    """Returns whether a signal takes the moments of the consumers' inputs.

    Raises:
        UsageError: If the name is unknown.
    """
    return SIGNALS.find(name).moments


@register_signal(NONE)
def no_signal(request: SignalRequest) -> dict[str, Tensor]:
    """Returns no table: all masks start open, gates alone, as in the paper."""
    return {}


@register_signal("taylor")
def taylor_signal(request: SignalRequest) -> dict[str, Tensor]:
    """Returns first-order evidence of whole units: the squared gradient with respect to a gate."""
    q = request
    return class_evidence(
        q.model, q.units, q.batches, q.num_classes, temperature=q.options.temperature, precision=q.precision
    )


@register_signal("irreplaceable", moments=True)
def irreplaceable_signal(request: SignalRequest) -> dict[str, Tensor]:
    """Returns first-order evidence of the part of each unit for which the other units cannot compensate."""
    q = request
    return class_evidence(
        q.model, q.units, q.batches, q.num_classes, q.moments,
        temperature=q.options.temperature, precision=q.precision,
    )  # fmt: skip


@register_signal("at_removal", moments=True)
def sequential_signal(request: SignalRequest) -> dict[str, Tensor]:
    """Returns sequential evidence: backward elimination, each unit scored given the units still kept."""
    q = request
    return sequential_evidence(
        q.model, q.units, q.batches, q.num_classes, q.moments,
        whole=q.options.whole, temperature=q.options.temperature, precision=q.precision,
    )  # fmt: skip


@register_signal("relevance")
def relevance_signal(request: SignalRequest) -> dict[str, Tensor]:
    """Returns the squared relevance of units: AttnLRP of an image's true logit, read at the consumers' inputs.

    A unit's relevance is the sum over tokens and channels of x g, with g the modified gradient of Achtibat et al. (ICML
    2024). That relevance be propagated to units is what the authors of X-Pruner name as future work; the square, with
    which it equals first-order evidence except for the rules, is our choice.

    Raises:
        UsageError: If a part of the model has no rule.
    """
    from xpruner.maps.anatomy import anatomy_of
    from xpruner.maps.attention import explicit_attention
    from xpruner.maps.attnlrp import relevance_rules

    q = request
    try:
        with explicit_attention(q.model), relevance_rules(q.model, anatomy_of(q.model)):
            return evidence_tables(q.model, q.units, q.batches, q.num_classes, ({},), q.precision, true_logits)[0]
    except UsageError as error:
        what = str(error).partition(";")[0]
        raise UsageError(f"masks.evidence is 'relevance': {what}; use 'at_removal' or 'taylor'.") from error


def true_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the sum over the batch of the labels' logits."""
    return logits.gather(1, labels[:, None]).sum()
