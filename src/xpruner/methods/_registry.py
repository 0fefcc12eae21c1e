"""Methods by name: what each supports, and what a run must know about it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from xpruner.config import RunConfig
from xpruner.config.checks import check
from xpruner.config.files import from_dict
from xpruner.errors import UsageError
from xpruner.methods._problem import Check, Outcome, Problem, Search
from xpruner.registry import Registry
from xpruner.units import DEFAULT_KINDS, offered_kinds


@dataclass(frozen=True)
class Method:
    """A registered method; calling it searches.

    Attributes:
        name: Under which it is registered.
        search: From a problem to an outcome; the problem's model is not changed.
        kinds: Kinds of unit that it prunes by default.
        options: A dataclass of the method's own options: a run sets them as ``search.options``, the search reads them
            as ``problem.options``; None for a method without.
        saveable: Whether its pruned model is a stock one that a plan describes, so that it can be saved.
        rotates: Whether heads whose dimensions it prunes are first rotated, unless a run says otherwise.
        changes_weights: Whether its outcomes hold a model, whose weights are no longer the dense ones.
        learns_masks: Whether its outcomes hold class-wise masks.
        guards_classes: Whether it keeps to ``max_class_drop``.
        reads: Options of a run that it reads and most methods do not, or prefixes of some, such as ``masks.``.
        kinds_under: Returns the kinds that it can prune under a configuration, where these are not all of ``kinds``.
        check: Raises UsageError for a problem that it cannot solve, as far as that is known without images.
    """

    name: str
    search: Search
    kinds: tuple[str, ...] = DEFAULT_KINDS
    options: type | None = None
    saveable: bool = True
    rotates: bool = False
    changes_weights: bool = False
    learns_masks: bool = False
    guards_classes: bool = False
    reads: tuple[str, ...] = ()
    kinds_under: Callable[[RunConfig], tuple[str, ...]] | None = None
    check: Check = lambda problem: None

    def __call__(self, problem: Problem) -> Outcome:
        """Searches.

        Raises:
            UsageError: If the method cannot solve the problem.
            XPrunerError: If the search fails.
        """
        problem = replace(problem, options=self.own_options(problem.config))
        self.check(problem)
        return self.search(problem)

    def own_options(self, config: RunConfig) -> Any:
        """Returns the method's own options as a run sets them; None for a method without.

        Raises:
            UsageError: If an option is unknown, or of a wrong type or out of range.
        """
        given = config.search.options
        if self.options is None:
            if given:
                raise UsageError(f"The method {self.name!r} has no options of its own; leave search.options out.")
            return None
        options: Any = from_dict(self.options, given, prefix="search.options.")
        check(options, "search.options.")
        return options


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
    """Returns the kinds of unit that a run asks for; absent, its method's kinds that the dense model offers."""
    if config.units is not None:
        return config.units
    method = find_method(config.method)
    wanted = method.kinds if method.kinds_under is None else method.kinds_under(config)
    offered = offered_kinds(dense)
    return [kind for kind in wanted if kind in offered] or list(wanted)
