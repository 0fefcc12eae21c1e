"""Options from YAML files: nested keys as dotted keys, applied over the defaults of a dataclass."""

import argparse
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from xpruner.config.checks import check
from xpruner.config.files import expanded
from xpruner.config.typed import in_words
from xpruner.errors import UsageError, unknown

Options = TypeVar("Options")


def overlaid(defaults: Options, settings: Mapping[str, Any], place: str) -> Options:
    """Returns options with some settings, checked.

    Args:
        defaults: The values of options that no setting changes.
        settings: Dotted keys and their values, as from :func:`dotted`.
        place: Where the settings come from, for messages.

    Raises:
        UsageError: If a value has the wrong type or is out of range.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(type(defaults))
    try:
        return built(type(defaults), parser, parser.parse_object({**settings_of(defaults), **settings}))
    except argparse.ArgumentError as error:
        raise UsageError(f"{in_one_sentence(error, fields_of(type(defaults)))}; correct it in {place}.") from error


def built(options: type[Options], parser: ArgumentParser, parsed: Any) -> Options:
    """Returns the parsed dataclass, checked, with ``~`` expanded in its paths.

    Raises:
        UsageError: If a value is out of range.
    """
    values = parser.instantiate(parsed)
    found = expanded(options(**{name: values[name] for name in get_type_hints(options)}))
    check(found)
    return found


def read_yaml(path: str | Path, options: type) -> dict[str, Any]:
    """Returns the values in a YAML file by dotted key, such as ``data.name``.

    Args:
        path: Of the file.
        options: The dataclass whose fields are the keys.

    Raises:
        UsageError: If the file cannot be read, or a key is unknown.
    """
    return dotted(load_yaml(path), options, str(path))


def load_yaml(path: str | Path) -> Any:
    """Returns the content of a YAML file; an empty file has no keys.

    Raises:
        UsageError: If the file cannot be read.
    """
    try:
        tree = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The configuration {path} cannot be read ({error.strerror}); correct --config.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"The configuration {path} is not YAML ({error}); correct it.") from error
    return {} if tree is None else tree


def dotted(tree: Any, options: type, place: str) -> dict[str, Any]:
    """Returns the values of nested keys by dotted key.

    Args:
        tree: As read from YAML.
        options: The dataclass whose fields are the keys.
        place: Where it stands, for messages.

    Raises:
        UsageError: If a key is unknown.
    """
    return dict(_dotted(tree, options, place))


def fields_of(options: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the type of every field of a dataclass, and of the dataclasses in it, by dotted key."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(options).items():
        found |= fields_of(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {f"{prefix}{name}": kind}
    return found


def settings_of(options: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the values of a dataclass, and of the dataclasses in it, by dotted key."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value, key = getattr(options, field.name), f"{prefix}{field.name}"
        found |= settings_of(value, f"{key}.") if dataclasses.is_dataclass(value) else {key: value}
    return found


def _dotted(tree: Any, options: type, path: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    kinds, known = get_type_hints(options), fields_of(options, prefix)
    if not isinstance(tree, dict):
        raise UsageError(f"{prefix[:-1] or 'The whole'} is {tree!r} in {path}, but must hold keys: {', '.join(known)}.")
    for name, value in tree.items():
        key, kind = f"{prefix}{name}", kinds.get(name)
        if kind is None:
            raise unknown(f"key in {path}:", key, known if prefix else [*kinds, *known])
        if dataclasses.is_dataclass(kind):
            yield from _dotted(value, kind, path, f"{key}.")  # type: ignore[arg-type]
        else:
            yield key, str(value) if kind is str and isinstance(value, int | float) else value


def in_one_sentence(error: Exception, known: dict[str, Any]) -> str:
    """Returns jsonargparse's message as one sentence, with a wrong value and what it must be."""
    text = " ".join(str(error).split()).rstrip(".")
    wrong = re.match(r'Parser key "([\w.]+)".* value: (.*)$', text)
    if wrong is None or wrong[1] not in known:
        return text
    return f"{wrong[1]} is {wrong[2]!r}, but must be {in_words(known[wrong[1]])}"
