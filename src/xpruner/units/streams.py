"""Residual streams: channels that run through a whole model, registered by the class of the model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from xpruner.registry import ADAPTERS, load_installed
from xpruner.units.adapter import Adapter, PrunablePart

STREAM_KIND = "embed"
"""The kind of a stream's units: its channels."""


@dataclass(frozen=True)
class Stream:
    """A residual stream of a model.

    Attributes:
        name: Of its unit group, whose key is ``<name>:embed``.
        scope: Path of the module inside which modules read and write the stream; "" for the whole model.
        adapter: Cuts its channels; its module is the whole model.
    """

    name: str
    scope: str
    adapter: Adapter


StreamsOf = Callable[[Any], Sequence[Stream]]
"""Returns the streams of a model, in forward order."""

_streams: dict[type[nn.Module], StreamsOf] = {}


def register_streams(*classes: type[nn.Module]) -> Callable[[StreamsOf], StreamsOf]:
    """Registers a function that returns the residual streams of models of these classes and of their subclasses."""

    def register(streams_of_class: StreamsOf) -> StreamsOf:
        for cls in classes:
            _streams[cls] = streams_of_class
        return streams_of_class

    return register


def streams_of(model: nn.Module) -> Sequence[Stream]:
    """Returns the known residual streams of a model; none where its class and its bases are not registered."""
    load_installed(ADAPTERS)
    found = (_streams[cls] for cls in type(model).__mro__ if cls in _streams)
    return next(found, lambda _model: ())(model)


def stream_parts(model: nn.Module) -> Iterator[PrunablePart]:
    """Yields a part for each known residual stream."""
    return (PrunablePart(stream.name, model, stream.adapter) for stream in streams_of(model))


def stream_key(model: nn.Module, path: str) -> str:
    """Returns the key of the stream that the module at ``path`` reads or writes; "" where none is known."""
    scopes = (each for each in streams_of(model) if not each.scope or f"{path}.".startswith(f"{each.scope}."))
    return next((f"{stream.name}:{stream.adapter.kind}" for stream in scopes), "")
