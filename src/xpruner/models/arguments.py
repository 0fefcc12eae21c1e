"""Checks of arguments and configurations from files for timm and transformers: plain values that run and fetch
nothing."""

import inspect
from collections.abc import Mapping
from typing import Any

import timm
from timm.models import build_model_with_cfg

from xpruner.errors import UsageError, require, unknown

OF_THE_FACTORY = {
    name
    for build in (timm.create_model, build_model_with_cfg)
    for name, parameter in inspect.signature(build).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
} | {"device", "dtype"}
"""Arguments of timm's factory, such as ``checkpoint_path``; all others reach the architecture's constructor."""

RUNNING = ("auto_map", "quantization_config", "use_kernels", "kernel_config", "backbone", "use_pretrained_backbone")
"""Keys in a configuration of transformers that make it run or fetch something."""
ATTENTION = ("eager", "sdpa")
"""Implementations of attention that come with transformers and torch; others may be fetched from a hub."""
BEYOND_THE_FIELDS = ("attn_implementation", "num_labels")
"""Harmless arguments of ``from_pretrained`` that are not fields of a configuration."""


def check_timm(arguments: Mapping[str, Any], where: str) -> None:
    """Raises UsageError unless arguments of ``timm.create_model`` reach only the architecture, as plain values.

    Args:
        arguments: From a configuration or a file.
        where: Where they stand, for the message.
    """
    for name, value in arguments.items():
        if name in OF_THE_FACTORY:
            raise UsageError(
                f"{where} gives timm the argument {name!r}, which could run code or fetch files; leave it out: only "
                "arguments of the architecture are accepted, and weights as model.checkpoint or model.pretrained."
            )
        _check_plain(name, value, where)


def check_transformers(arguments: Mapping[str, Any], config_class: Any, where: str) -> None:
    """Raises UsageError unless all arguments of ``from_pretrained`` set plain fields of the model's own configuration.

    Args:
        arguments: From a configuration.
        config_class: The model's, such as ``ViTConfig``.
        where: Where the arguments stand, for the message.
    """
    common = require("transformers", "load this model").PretrainedConfig().to_dict()
    allowed = {*config_class().to_dict()} - {*common} | {*BEYOND_THE_FIELDS}
    for name in arguments:
        if name not in allowed:
            hint = str(unknown("field", name, allowed)).partition("; ")[2]
            raise UsageError(
                f"{where} gives transformers the argument {name!r}, which is not a field of {config_class.__name__} "
                f"and could run code or fetch files; leave it out ({hint.rstrip('.')})."
            )
    check_config(arguments, where)


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raises UsageError where a configuration of transformers, or one nested in it, would run or fetch something.

    Args:
        config: As in ``config.json``.
        where: Where it stands, for the message.
    """
    for name, value in config.items():
        implementation = name.endswith("_implementation") and value is not None and value not in ATTENTION
        of_timm = name == "architecture" and ":" in str(value)  # a hub or a folder, in timm's words
        if implementation or of_timm or (name in RUNNING and value):
            raise UsageError(
                f"{where} gives transformers {name!r}: {str(value)[:80]!r}, which could run code or fetch files; take "
                "it out, or give a model that needs none."
            )
        if name == "model_args":
            check_timm(value or {}, where)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping):
                check_config(part, where)


def _check_plain(name: str, value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif value is None or isinstance(value, bool | int | float | str):
        return
    else:
        raise UsageError(
            f"{where} has {name!r} of the type {type(value).__name__}; give plain values: numbers, names, lists."
        )
    for part in parts:
        _check_plain(name, part, where)
