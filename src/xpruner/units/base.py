"""The nouns of the library: a group of units, all groups of a model, and the registry of what can be cut."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from xpruner.errors import UsageError, unknown

Keep = Mapping[str, list[int]]
"""For each group's key the unit indices to keep; a group that is absent keeps all."""


@dataclass(frozen=True)
class UnitGroup:
    """The units of one kind in one module, e.g. the heads of ``blocks.3.attn``.

    Attributes:
        key: ``<module path>:<kind>``, e.g. ``blocks.3.attn:head``.
        kind: ``head`` or ``hidden``.
        module: Path of the module that owns the units.
        consumer: Path of the linear layer that reads their output; a gate multiplies its input.
        size: How many units there are.
        width: Consecutive input channels of the consumer that belong to one unit (head dim; 1 for hidden units).
        macs: Multiply-accumulates of one unit, for one image, at the traced input size.
        params: Parameters of one unit.
    """

    key: str
    kind: str
    module: str
    consumer: str
    size: int
    width: int
    macs: float
    params: float


@dataclass(frozen=True)
class Units:
    """Every prunable group of a model, with what the whole model costs.

    Attributes:
        groups: In the order of the forward pass.
        total_macs: Multiply-accumulates of the whole model for one image.
        total_params: Parameters of the whole model.
        input_size: (channels, height, width) at which the MACs were traced.
    """

    groups: tuple[UnitGroup, ...]
    total_macs: float
    total_params: float
    input_size: tuple[int, int, int]

    def __iter__(self) -> Iterator[UnitGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, key: str) -> UnitGroup:
        for group in self.groups:
            if group.key == key:
                return group
        raise unknown("unit group", key, [group.key for group in self.groups])

    def cost(self, keep: Keep, resource: str = "macs") -> float:
        """Returns the MACs or parameters of the model that keeps only the units in ``keep``."""
        total = self.total(resource)
        return total - sum(
            getattr(group, resource) * (group.size - len(keep[group.key])) for group in self if group.key in keep
        )

    def total(self, resource: str = "macs") -> float:
        """Returns the dense model's ``macs`` or ``params``."""
        return {"macs": self.total_macs, "params": self.total_params}[resource]


class Adapter(Protocol):
    """How the units of one class of module are counted and cut; one stateless instance a class.

    ``module`` is typed Any below: an adapter reads attributes that only its own class has.
    """

    kind: str
    consumer: str

    def refuse(self, module: Any) -> str | None:
        """Returns why this instance of the module cannot be cut exactly, or None."""

    def size(self, module: Any) -> int:
        """Returns how many units the module has."""

    def width(self, module: Any) -> int:
        """Returns how many input channels of the consumer belong to one unit."""

    def macs(self, module: Any, shape: torch.Size) -> float:
        """Returns the MACs of one unit when the consumer's input has ``shape`` (..., tokens, channels)."""

    def params(self, module: Any) -> int:
        """Returns the parameters of one unit."""

    def cut(self, module: Any, keep: torch.Tensor) -> None:
        """Keeps only the units in ``keep`` (at least one index), with every attribute that depends on them."""


@dataclass(frozen=True)
class PrunablePart:
    """A module that holds units, where it lies, and the adapter that cuts it."""

    path: str
    module: nn.Module
    adapter: Adapter

    @property
    def key(self) -> str:
        """The key of its unit group."""
        return f"{self.path}:{self.adapter.kind}"

    @property
    def consumer(self) -> str:
        """The path of the linear layer that reads its units."""
        return f"{self.path}.{self.adapter.consumer}"


_adapters: dict[type[nn.Module], Adapter] = {}


def register_adapter(*classes: type[nn.Module]) -> Callable[[type], type]:
    """Registers an :class:`Adapter` for modules of exactly these classes."""

    def register(adapter: type) -> type:
        for cls in classes:
            _adapters[cls] = adapter()
        return adapter

    return register


def adapter_of(module: nn.Module, path: str) -> Adapter:
    """Returns the adapter that cuts ``module``.

    Raises:
        UsageError: If no adapter knows the module's class, or this instance cannot be cut exactly.
    """
    adapter = _adapters.get(type(module))
    if adapter is None:
        supported = ", ".join(sorted(cls.__name__ for cls in _adapters))
        raise UsageError(
            f"Cannot prune {path!r}: its class {type(module).__name__} has no adapter; supported are {supported}."
        )
    reason = adapter.refuse(module)
    if reason:
        raise UsageError(f"Cannot prune {path!r} ({type(module).__name__}): {reason}.")
    return adapter
