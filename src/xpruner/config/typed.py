"""Converts plain values, as in JSON and YAML, to the types that they must have."""

import dataclasses
import reprlib
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


def typed(kind: Any, value: Any, place: str = "", *, whole: bool = False) -> Any:
    """Returns a plain value as its type, with objects as dataclasses.

    Args:
        kind: A type, such as ``dict[str, list[int]]``, ``float | None``, a ``Literal`` or a dataclass.
        value: As read.
        place: Where it stands, such as ``data.batch_size``, for messages.
        whole: Whether every field of a dataclass must be given, also one with a default.

    Raises:
        ValueError: If it has another type, is a number that is not finite, or an object lacks a key or has an unknown
            one; the message names place and value.
    """
    if dataclasses.is_dataclass(kind):
        return _object(kind, value, place, whole)
    parts = get_args(kind)
    if type(None) in parts:
        return None if value is None else typed(parts[0], value, place, whole=whole)
    if get_origin(kind) is list and isinstance(value, list | tuple):
        return [typed(parts[0], one, f"{place}[{number}]", whole=whole) for number, one in enumerate(value)]
    if get_origin(kind) is dict and isinstance(value, dict):
        return {typed(parts[0], name): typed(parts[1], one, _at(place, name)) for name, one in value.items()}
    if not _fits(kind, value):
        raise ValueError(f"{place or 'the whole'} is {reprlib.repr(value)}, but must be {in_words(kind)}")
    return value


def part_of(kind: Any, values: Mapping[str, Any], place: str) -> Any:
    """Returns the dataclass built from its keys of an object; other keys are ignored.

    Raises:
        ValueError: As :func:`typed`.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    return typed(kind, {name: values[name] for name in names if name in values}, place)


def in_words(kind: Any) -> str:
    """Returns what a type is called in messages."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if type(None) in get_args(kind):
        return f"{in_words(get_args(kind)[0])} or absent"
    if get_args(kind):
        return str(kind).replace("typing.", "")
    plain = {"str": "text", "int": "a whole number", "float": "a finite number", "bool": "true or false"}
    return plain.get(kind.__name__, kind.__name__)


def _fits(kind: Any, value: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # neither nan nor endless
    return kind is Any or type(value) is kind  # True is an int to isinstance


def _object(kind: Any, value: Any, place: str, whole: bool) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place or 'the whole'} is {reprlib.repr(value)}, but must hold keys")
    kinds = get_type_hints(kind)
    for name in value:
        if name not in kinds:
            raise ValueError(f"{place or 'the whole'} has an unknown key {reprlib.repr(name)}")
    for field in dataclasses.fields(kind):
        if field.name not in value and (whole or not _has_default(field)):
            raise ValueError(f"{_at(place, field.name)} is missing")
    return kind(**{name: typed(kinds[name], one, _at(place, name), whole=whole) for name, one in value.items()})


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _at(place: str, name: Any) -> str:
    return f"{place}.{name}" if place else str(name)
