"""Converts plain values, as in YAML and Python dicts, to the dataclasses of a configuration."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from xpruner.config.checks import check
from xpruner.config.options import RunConfig
from xpruner.config.typed import typed
from xpruner.errors import UsageError, unknown
from xpruner.files import reading

Options = TypeVar("Options")
REMEDY = "it is the configuration of the run, so copy it again"


def from_dict(options: type[Options], values: Any, base: Options | None = None, prefix: str = "") -> Options:
    """Returns a dataclass, and those in it, from nested plain values.

    Args:
        options: The dataclass.
        values: By the names of its fields; an instance of the dataclass is returned as it is.
        base: Gives the fields that the values lack; the defaults when absent.
        prefix: Put before the names in messages, such as ``finetune.``.

    Raises:
        UsageError: If a name is not one of its fields, or the values are not a mapping.
    """
    if isinstance(values, options):
        return values
    if not isinstance(values, Mapping):
        name, kind = prefix.rstrip(".") or "The configuration", options.__name__
        raise UsageError(f"{name} is {values!r}, but must be a {kind} or a dict of its options.")
    kinds, base = get_type_hints(options), options() if base is None else base
    for name in values:
        if name not in kinds:
            raise unknown("option", f"{prefix}{name}", [f"{prefix}{kind}" for kind in kinds])
    read = {
        name: from_dict(kinds[name], value, getattr(base, name), f"{prefix}{name}.")
        if dataclasses.is_dataclass(kinds[name])
        else value
        for name, value in values.items()
    }
    return dataclasses.replace(base, **read)  # type: ignore[type-var]


def expanded(options: Options) -> Options:
    """Returns a dataclass with ``~`` expanded in its paths and in those of nested dataclasses."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = expanded(value)
        elif isinstance(value, str) and value.startswith("~"):
            changed[field.name] = os.path.expanduser(value)  # noqa: PTH111 - a Path would drop what a name may end in
    return dataclasses.replace(options, **changed)  # type: ignore[type-var]


def read_config(path: Path) -> RunConfig:
    """Returns the configuration of a run; missing options keep their defaults.

    Raises:
        XPrunerError: If the file is missing or not YAML, a key is unknown, or a value has the wrong type or is out of
            range.
    """
    values = stored_values(path)
    with reading(path, REMEDY):
        config = typed(RunConfig, values)
        check(config)
        return config


def stored_values(path: Path) -> dict[str, Any]:
    """Returns the configuration of a run as the plain values that were written.

    Raises:
        XPrunerError: If the file is missing, or is not YAML of keys and values.
    """
    with reading(path, REMEDY):
        try:
            return typed(dict[str, Any], yaml.safe_load(path.read_text(encoding="utf-8")))
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error
