"""Dense models without weights, built from a name and arguments, and the arguments deduced from a model."""

import difflib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from xpruner.errors import UsageError, require, unknown
from xpruner.models.arguments import check_config, check_timm
from xpruner.models.reading import outside, read_off, readable

RECORD = "_model_args"
"""Attribute in which some versions of timm store the arguments that made a model; here it is always set."""


class Misfit(Exception):
    """Arguments, structure and weights that do not fit together; the message states why."""


def identify(model: nn.Module) -> tuple[str, str]:
    """Returns the library that a model comes from and the model's name in it.

    Raises:
        UsageError: If it cannot be identified.
    """
    if type(model).__module__.startswith("transformers."):
        return "transformers", type(model).__name__
    architecture = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if architecture is None:
        raise UsageError("The model does not name its timm architecture; make it with timm.create_model.")
    return "timm", architecture


def skeleton(library: str, architecture: str, arguments: Mapping[str, Any], where: str = "kwargs=") -> Any:
    """Returns the dense model with parameters of the right shapes, undefined values, and correct buffers.

    Args:
        library: ``timm`` or ``transformers``.
        architecture: The model's name in it.
        arguments: Of ``timm.create_model``, or the configuration of transformers.
        where: Where the arguments stand, for messages.

    Raises:
        UsageError: If the library does not know the architecture, or an argument could run code or fetch files.
        Misfit: If the library does not accept the arguments.
    """
    check, build = (check_config, _with_transformers) if library == "transformers" else (check_timm, _with_timm)
    check(arguments, where)
    try:
        with torch.random.fork_rng(devices=[]), _Unwritten():
            return build(architecture, arguments)
    except UsageError:
        raise
    except Exception as error:  # unsupported arguments raise nearly anything
        raise Misfit(f"{library} refuses the arguments ({type(error).__name__}: {error})") from error


def version_of(library: str) -> str:
    """Returns the version of ``timm`` or ``transformers`` that is installed."""
    return importlib.metadata.version(library)


def unknown_model(name: str) -> UsageError:
    """Returns the error for a name that timm does not know, with the nearest one."""
    longer = sorted(timm.list_models(f"{name}*"), key=len)
    near = longer[:1] or difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.5)
    return unknown("timm model", name, near or ["vit_*", "deit*", "swin_*"])


def _with_timm(architecture: str, kwargs: Mapping[str, Any]) -> nn.Module:
    if not timm.is_model(architecture):
        raise unknown_model(architecture)
    model = timm.create_model(architecture, pretrained=False, **kwargs)
    setattr(model, RECORD, dict(kwargs))
    return model


def _with_transformers(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    library = require("transformers", "load this model")
    made: Any = getattr(library, architecture, None)
    if library.PreTrainedModel not in getattr(made, "__mro__", ()):
        raise UsageError(f"transformers has no model class {architecture!r}; update transformers or the architecture.")
    return made(made.config_class.from_dict(dict(config)))


class _Unwritten(TorchFunctionMode):
    """Leaves new parameters uninitialised: drawing weights only to replace them takes most of the time of a load."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        return target if in_place and isinstance(target, nn.Parameter) else func(*args, **kwargs)


def guesses(model: Any, library: str, architecture: str) -> Iterator[dict[str, Any]]:
    """Yields arguments that may have made the model, the likeliest first.

    Arguments recorded when the model was made come before deduced ones: a cut model shows its own widths, not those
    that it was cut from.
    """
    if library == "transformers":
        yield json.loads(model.config.to_json_string(use_diff=False))
        return
    plain = skeleton(library, architecture, {})
    recorded = getattr(model, RECORD, None)
    if recorded is not None and _is_json(recorded):
        yield {**recorded, **outside(model, plain, recorded)}
    if readable(model):
        yield from read_off(model, plain)
    yield outside(model, plain)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
