"""What a pruning method is given and what it returns; methods are registered by name."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from xpruner.calibration.moments import Batches
from xpruner.calibration.rotate_heads import rotate_heads
from xpruner.config import RunConfig
from xpruner.errors import UsageError
from xpruner.methods._problem import Check, Outcome, Problem, Search
from xpruner.registry import Registry
from xpruner.units import DEFAULT_KINDS, offered_kinds


@dataclass(frozen=True)
class Method:
    """A registered method; calling it searches.

    Attributes:
        name: Under which it is registered.
        search: From a problem to an outcome; the problem's model is left as it is.
        kinds: Kinds of unit that it was made for.
        plain: Whether its pruned model is a stock one that a plan describes, so that it can be saved.
        rotates: Whether heads whose dimensions it prunes are first turned, unless a run says otherwise.
        changes_weights: Whether its outcomes hold a model, whose weights are no longer the dense ones.
        check: Raises UsageError for a problem that it cannot solve, told by all but the images.
    """

    name: str
    search: Search
    kinds: tuple[str, ...] = DEFAULT_KINDS
    plain: bool = True
    rotates: bool = False
    changes_weights: bool = False
    check: Check = lambda problem: None

    def __call__(self, problem: Problem) -> Outcome:
        """Searches.

        Raises:
            UsageError: If the method cannot solve the problem.
            XPrunerError: If the search fails.
        """
        self.check(problem)
        return self.search(problem)


METHODS: Registry[Method] = Registry("method", "xpruner.methods")


def register_method(name: str, kinds: tuple[str, ...] = DEFAULT_KINDS, **properties: Any) -> Callable[[Search], Search]:
    """Registers a method under its name; the arguments are those of :class:`Method`.

    Raises:
        UsageError: If another method has that name.
    """

    def register(search: Search) -> Search:
        METHODS.add(name, Method(name, search, kinds, **properties), search)
        return search

    return register


def find_method(name: str) -> Method:
    """Returns a registered method.

    Raises:
        UsageError: If the name is unknown; the nearest is named.
    """
    return METHODS.find(name)


def list_methods() -> list[str]:
    """Returns the names of all methods, sorted, with those of installed packages."""
    return METHODS.names()


def kinds_for(config: RunConfig, dense: nn.Module) -> list[str]:
    """Returns the kinds of unit that a run asks for; absent, those of its method that the dense model offers.

    A search with compensated gradient steps knows heads and hidden units alone.
    """
    if config.units is not None:
        return config.units
    learned = config.method == "xpruner" and config.thresholds.steps > 0 and config.thresholds.compensated
    offered, wanted = offered_kinds(dense), DEFAULT_KINDS if learned else find_method(config.method).kinds
    return [kind for kind in wanted if kind in offered] or list(wanted)


def prepared(dense: nn.Module, batches: Batches, config: RunConfig) -> nn.Module:
    """Returns the dense model as a run's method wants it: a copy with its heads turned, or the model itself.

    Turning changes no output, only which dimensions can go together, see
    :func:`xpruner.calibration.rotate_heads.rotate_heads`.

    Args:
        dense: The dense model.
        batches: Calibration images; labels are not read.
        config: Of the run; ``rotate`` overrules the method.
    """
    wanted = find_method(config.method).rotates if config.rotate is None else config.rotate
    if not wanted or {"qk", "v"}.isdisjoint(kinds_for(config, dense)):
        return dense
    return rotate_heads(copy.deepcopy(dense), batches, config.precision)


def check_compensation(config: RunConfig) -> None:
    """Raises UsageError where a search changes weights and compensation would take them for the dense model's."""
    mode = config.compensate.mode
    if find_method(config.method).changes_weights and mode in ("affine", "mean"):
        raise UsageError(
            f"compensate.mode is {mode}, which fits the dense model's weights, but the search of {config.method!r} "
            "changes them; set it to sequential or none."
        )
