"""Flags, made of the fields of a dataclass."""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from xpruner.config.settings import built, fields_of, in_one_sentence, settings_of
from xpruner.errors import UsageError, unknown

Options = TypeVar("Options")

SHORT = {
    "--model": "--model.name",
    "--data": "--data.name",
    "--batch_size": "--data.batch_size",
    "--class": "--class_name",
    "--no-browser": "--no_browser",
}
"""Other ways to write flags, where a command has them."""
HELP = ("-h", "--help")


def parse(
    command: str,
    defaults: Options,
    arguments: Sequence[str],
    settings: dict[str, Any] | None = None,
    *,
    words: str = "",
    about: str | None = None,
) -> Options:
    """Returns the options of a command: its defaults, overlaid by settings and then by flags.

    Args:
        command: Its name, for messages and ``--help``.
        defaults: An instance of the dataclass whose fields become flags.
        arguments: The flags.
        settings: Dotted keys and their values, as from :func:`read_yaml`. A command that takes none has no
            ``--config`` and no ``--print_config``.
        words: What may be given besides flags, such as ``RUN``, for ``--help``.
        about: What the command does, for ``--help``.

    Raises:
        UsageError: If a flag is unknown or a value has the wrong type or is out of range.
    """
    known, with_file = fields_of(type(defaults)), settings is not None
    parser = _parser(f"{command} {words}".strip(), type(defaults), with_file, about)
    flags = list(_spelled_out(arguments, known))
    _check_flags(command, flags, known, ["--help", "--config", "--print_config"] if with_file else ["--help"])
    try:
        base = parser.parse_object({**settings_of(defaults), **(settings or {})})
        parsed = parser.parse_args(flags, namespace=base)
        return built(type(defaults), parser, parsed)
    except argparse.ArgumentError as error:
        raise UsageError(f"{in_one_sentence(error, known)}; `xpruner {command} --help` lists the options.") from error


def parse_with_run(command: str, defaults: Options, arguments: Sequence[str], about: str) -> Options:
    """Returns the options of a command whose run directory may be given without ``--run``, before or behind the flags.

    Args:
        command: Its name.
        defaults: An instance of its dataclass, with a field ``run``.
        arguments: The flags, and the run directory.
        about: What the command does.

    Raises:
        UsageError: As :func:`parse`, or if there is more than one run directory.
    """
    words, flags = words_and_flags(arguments, fields_of(type(defaults)))
    return parse(command, defaults, [*flags, *as_run(command, words, flags)], words="[RUN]", about=about)


def words_and_flags(arguments: Sequence[str], known: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Divides arguments into words, such as a run directory, and flags, in whatever order they stand.

    Args:
        arguments: Of a command.
        known: The types of its options by name, which decide what belongs to a flag.

    Returns:
        The words, and the flags with their values, as ``--images=5``. Values of a list of names, which may be written
        with commas and given more than once, are one list.

    Raises:
        UsageError: If a flag that needs a value stands without one.
    """
    words: list[str] = []
    flags: list[str] = []
    lists: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            words.append(argument)
        elif argument in HELP:
            flags.append(argument)
        else:
            flag, value = _flag(argument, rest, known)
            if known.get(flag[2:]) == list[str]:
                lists.setdefault(flag, []).extend(_names(value))
            else:
                flags.append(f"{flag}={value}")
    return words, [*flags, *(f"{flag}={json.dumps(names)}" for flag, names in lists.items())]


def as_run(command: str, words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Returns what is left of a command's words, a run directory or nothing, as ``--run``.

    Raises:
        UsageError: If there is more than one, or ``--run`` is among the flags.
    """
    if len(words) > 1:
        raise UsageError(f"{words[1]!r} is a word too many; `xpruner {command} --help` shows what is expected.")
    if words and any(flag.startswith("--run=") for flag in flags):
        raise UsageError(f"The run is given twice, as {words[0]!r} and by --run; leave one of them out.")
    return [f"--run={word}" for word in words]


def _flag(argument: str, rest: list[str], known: dict[str, Any]) -> tuple[str, str]:
    """Returns a flag in full and its value, which is taken off what stands behind it unless it stands in it."""
    short, equals, value = argument.partition("=")
    flag = _full(short, known)
    kind = known.get(flag[2:])
    if equals:
        return flag, value
    if kind is bool:
        return flag, rest.pop(0) if rest[:1] in (["true"], ["false"]) else "true"
    if rest and not rest[0].startswith("--"):
        return flag, rest.pop(0)
    if kind is None:
        return flag, ""  # it is unknown, which is an error later
    raise UsageError(f"{short} stands without a value; give one after it.")


def _names(text: str) -> list[str]:
    """Returns names between commas or, as they stand, those of a list in brackets, in which they may be quoted."""
    if text.startswith("["):
        with contextlib.suppress(yaml.YAMLError):
            names = yaml.load(text, yaml.BaseLoader)  # which makes nothing but strings, lists and dicts
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return names
    parts = (part.strip(" '\"") for part in text.strip("[]").split(","))
    return [part for part in parts if part]


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


class _Help(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of what a command does as they are."""


def _parser(command: str, options: type, with_file: bool, about: str | None) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"xpruner {command}", description=about, formatter_class=_Help, exit_on_error=False, allow_abbrev=False
    )
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
        full = _full(flag, known)
        yield full + equals + value
        if known.get(full[2:]) is bool and not equals and after.startswith("--"):
            yield "true"


def _full(flag: str, known: dict[str, Any]) -> str:
    full = SHORT.get(flag, flag)
    return full if full[2:] in known else flag


def _check_flags(command: str, flags: Sequence[str], known: dict[str, Any], more: Sequence[str]) -> None:
    """Raises UsageError for the first flag that is not known; the keys of a dict count as known."""
    names = [f"--{key}" for key in known] + list(more)
    open_ended = tuple(f"--{key}." for key, kind in known.items() if get_origin(kind) is dict)
    for flag in flags:
        name = flag.partition("=")[0].removesuffix("+")
        if name.startswith("--") and name not in names and not name.startswith(open_ended):
            raise unknown("flag", name, names, f"`xpruner {command} --help` lists all")
