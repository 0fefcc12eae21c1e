"""Flags and YAML files, both made of the fields of a dataclass."""

import argparse
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from xpruner.errors import UsageError, unknown

Options = TypeVar("Options")

SHORT = {"--model": "--model.name", "--data": "--data.name", "--batch_size": "--data.batch_size"}


def parse(command: str, defaults: Options, arguments: Sequence[str], settings: dict[str, Any] | None = None) -> Options:
    """Returns the options of a command: its defaults, overlaid by settings and then by flags.

    Args:
        command: Its name, for messages and ``--help``.
        defaults: An instance of the dataclass whose fields become flags.
        arguments: The flags.
        settings: Dotted keys and their values, as from :func:`read_yaml`. A command that takes none has no
            ``--config`` and no ``--print_config``.

    Raises:
        UsageError: If a flag is unknown or a value has the wrong type.
    """
    known, with_file = fields_of(type(defaults)), settings is not None
    parser = _parser(command, type(defaults), with_file)
    flags = list(_spelled_out(arguments, known))
    _check_flags(flags, known, ["--help", "--config", "--print_config"] if with_file else ["--help"])
    try:
        base = parser.parse_object({**settings_of(defaults), **(settings or {})})
        parsed = parser.instantiate(parser.parse_args(flags, namespace=base))
    except argparse.ArgumentError as error:
        raise UsageError(f"{_plain(error, known)}; `xpruner {command} --help` lists the options.") from error
    return type(defaults)(**{name: parsed[name] for name in get_type_hints(type(defaults))})


def take(flag: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the values of one flag, in order, and the arguments without it.

    Raises:
        UsageError: If the flag stands without a value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(flag, action="append", default=[], dest="values")
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(f"{flag} stands without a value; give one after it.") from error
    return found.values, rest


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
    """Returns what a YAML file holds; an empty one holds no keys.

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


def _parser(command: str, options: type, with_file: bool) -> ArgumentParser:
    parser = ArgumentParser(prog=f"xpruner {command}", exit_on_error=False, allow_abbrev=False)
    if with_file:
        parser.add_argument("--config", action="config", help="A YAML file of these options; flags win over it.")
    parser.add_class_arguments(options)
    for action in parser._actions:
        flag = "".join(action.option_strings)
        if flag in SHORT:
            action.help, action.metavar = f"Short for {SHORT[flag]}.", "NAME"
        elif dataclasses.is_dataclass(get_type_hints(options).get(action.dest)):
            action.help = argparse.SUPPRESS  # jsonargparse would read a part of the options from a file here
    return parser


def _spelled_out(arguments: Sequence[str], known: dict[str, Any]) -> Iterator[str]:
    """Yields the arguments with short flags in full, and ``true`` behind a flag for a bool that stands alone."""
    for argument, after in zip(arguments, [*arguments[1:], "--"], strict=False):
        flag, equals, value = argument.partition("=")
        full = SHORT.get(flag, flag)
        yield full + equals + value
        if known.get(full[2:]) is bool and not equals and after.startswith("--"):
            yield "true"


def _check_flags(flags: Sequence[str], known: dict[str, Any], more: Sequence[str]) -> None:
    """Raises UsageError for the first flag that is not known; the keys of a dict count as known."""
    names = [f"--{key}" for key in known] + list(more)
    open_ended = tuple(f"--{key}." for key, kind in known.items() if get_origin(kind) is dict)
    for flag in flags:
        name = flag.partition("=")[0].removesuffix("+")
        if name.startswith("--") and name not in names and not name.startswith(open_ended):
            raise unknown("flag", name, names)


def _plain(error: Exception, known: dict[str, Any]) -> str:
    """Returns jsonargparse's message as one sentence, with a wrong value and what it must be."""
    text = " ".join(str(error).split()).rstrip(".")
    wrong = re.match(r'Parser key "([\w.]+)".* value: (.*)$', text)
    if wrong is None or wrong[1] not in known:
        return text
    return f"{wrong[1]} is {wrong[2]!r}, but must be {_in_words(known[wrong[1]])}"


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return str(kind).replace("typing.", "") if get_args(kind) else kind.__name__
