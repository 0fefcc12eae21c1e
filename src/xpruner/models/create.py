"""The dense model of a run: made by timm or read from a saved folder, with weights from any source."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from xpruner.config import FinetuneConfig, ModelConfig
from xpruner.data.spec import InputSpec
from xpruner.errors import UsageError, XPrunerError
from xpruner.models.about import known_classes, note
from xpruner.models.arguments import check_timm
from xpruner.models.checkpoint import CONFIG, STRUCTURE, load, read_structure
from xpruner.models.classifier import check_single_label
from xpruner.models.of_timm import is_timm_folder, read_timm_folder
from xpruner.models.of_transformers import read_transformers
from xpruner.models.preprocessing import read_preprocessing
from xpruner.models.skeleton import unknown_model
from xpruner.models.weights import classes_in, load_weights, stored_weights
from xpruner.registry import ADAPTERS, load_installed
from xpruner.runtime.outputs import classes_of

log = logging.getLogger("xpruner")

PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
"""The options of preprocessing; with all of them set a model's own processor is not read."""
PREFIX = "transformers:"
"""Prefix of a name on the hub of transformers, which distinguishes it from a folder."""


def load_model(config: ModelConfig, num_classes: int | None = None) -> tuple[nn.Module, dict[str, Any] | None]:
    """Returns the dense model that a configuration asks for, in eval mode.

    Args:
        config: Its name, its weights, its arguments.
        num_classes: Of the data, used where neither the configuration nor the weights define it.

    Returns:
        The model, and the arguments of ``timm.create_model`` that made it, for ``xpruner.save``; None for a model of
        transformers, which has its own configuration.

    Raises:
        UsageError: If the name or an argument is unknown or could run code or fetch files, or the weights are not
            those of this model, not finite or not of floating point.
        XPrunerError: If a file is damaged, or published weights cannot be fetched.
    """
    load_installed(ADAPTERS)
    model, kwargs = _found(config, num_classes)
    given = {name: getattr(config, name) for name in PREPROCESSING if getattr(config, name) is not None}
    if given:
        note(model, input=replace(InputSpec.of(model), **{name: _plain(value) for name, value in given.items()}))
    return model, kwargs


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _found(config: ModelConfig, num_classes: int | None) -> tuple[nn.Module, dict[str, Any] | None]:
    if _of_transformers(config.name):
        return _from_transformers(config), None
    if is_timm_folder(config.name):
        return _from_timm_folder(config)
    if _is_folder(config.name):
        return _from_folder(config)
    if not timm.is_model(config.name):
        raise unknown_model(config.name)
    stated = {key: getattr(config, key) for key in ("num_classes", "img_size") if getattr(config, key) is not None}
    kwargs = {**config.kwargs, **stated}
    path = Path(config.checkpoint).expanduser() if config.checkpoint else None
    weights = stored_weights(path) if path else None
    if "num_classes" not in kwargs:  # the weights take precedence over the data, whose classes are compared later
        kwargs["num_classes"] = (classes_in(weights, config.name) if weights else None) or num_classes
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    model = _create(config, kwargs)
    if path:
        load_weights(model, path, weights)
    elif not config.pretrained:
        log.warning("%s has random weights; give a checkpoint, or set pretrained.", config.name)
    return model.eval(), kwargs


def load_teacher(recipe: FinetuneConfig, dense: nn.Module) -> nn.Module | None:
    """Returns what fine-tuning distils from: the model that the recipe names, else the dense one; None without either.

    Raises:
        UsageError: If there is no such model, its classes are not those of the dense model, or it does not accept
            images of that size.
        XPrunerError: If its published weights cannot be fetched.
    """
    if recipe.distill == 0:
        return None
    if recipe.teacher is None:
        return dense
    published = not _is_folder(recipe.teacher)
    teacher, _ = load_model(ModelConfig(recipe.teacher, pretrained=published))
    if classes_of(teacher) != classes_of(dense):
        raise UsageError(
            f"The teacher {recipe.teacher} has {classes_of(teacher)} classes but the model {classes_of(dense)}; give a "
            "teacher of the same classes, or leave it out."
        )
    _check_teacher(teacher, dense, recipe.teacher)
    return teacher


def _check_teacher(teacher: nn.Module, dense: nn.Module, name: str) -> None:
    """Raises UsageError where a teacher cannot be distilled from on the dense model's images."""
    theirs, ours = known_classes(teacher).names, known_classes(dense).names
    if theirs and ours and theirs != ours:
        raise UsageError(f"The teacher {name} has its classes in another order than the model; give one with the same.")
    theirs_input, ours_input = InputSpec.of(teacher), InputSpec.of(dense)
    if (theirs_input.mean, theirs_input.std) != (ours_input.mean, ours_input.std):
        log.warning("The teacher %s expects %s, but gets the model's images: %s.", name, theirs_input, ours_input)
    try:
        with torch.no_grad():
            teacher.eval()(torch.zeros(1, *ours_input.shape))
    except Exception as error:  # images of another size raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UsageError(
            f"The teacher {name} does not accept the model's images of {ours_input.size[0]} x {ours_input.size[1]} "
            f"pixels ({reason}); give a teacher of that size, or leave it out."
        ) from error


def _of_transformers(name: str) -> bool:
    if name.startswith(PREFIX):
        return True
    folder = Path(name).expanduser()
    return (folder / CONFIG).is_file() and not (folder / STRUCTURE).is_file() and not is_timm_folder(name)


def _from_transformers(config: ModelConfig) -> nn.Module:
    """Reads an image classifier of transformers, from a folder of its own format or from the hub."""
    settled = [key for key in ("checkpoint", "num_classes", "img_size") if getattr(config, key)]
    if settled:
        raise UsageError(f"{config.name} is complete as it is; leave out model.{' and model.'.join(settled)}.")
    name = config.name.removeprefix(PREFIX)
    model = read_transformers(name, config.kwargs)
    if any(getattr(config, option) is None for option in PREPROCESSING):
        folder = Path(name).expanduser()
        note(model, input=read_preprocessing(str(folder) if folder.is_dir() else name, folder.is_dir()))
    return model


def _from_timm_folder(config: ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
    """Reads a model from a folder as timm saves it for the hub."""
    settled = [key for key in ("checkpoint", "pretrained", "num_classes", "img_size", "kwargs") if getattr(config, key)]
    if settled:
        raise UsageError(f"{config.name} is complete as it is; leave out model.{' and model.'.join(settled)}.")
    found = read_timm_folder(Path(config.name).expanduser())
    model = _create(replace(config, name=found.architecture), found.kwargs)
    load_weights(model, found.weights, stored_weights(found.weights))
    note(model, input=found.preprocessing(InputSpec.of(model)), class_names=found.class_names)
    return model.eval(), found.kwargs


def _is_folder(name: str) -> bool:
    folder = Path(name).expanduser()
    return (folder / STRUCTURE).is_file() or (not timm.is_model(name) and (folder.exists() or "/" in name))


def _from_folder(config: ModelConfig) -> tuple[nn.Module, dict[str, Any]]:
    settled = [key for key in ("checkpoint", "pretrained", "img_size", "kwargs") if getattr(config, key)]
    if settled:
        raise UsageError(
            f"The model saved in {config.name} is complete as it is; leave out model.{' and model.'.join(settled)}."
        )
    structure = read_structure(config.name)
    model: Any = load(config.name)
    check_single_label(model)
    if config.num_classes not in (None, classes_of(model)):
        raise UsageError(
            f"The model saved in {config.name} has {classes_of(model)} classes where model.num_classes is "
            f"{config.num_classes}; leave that out, or give another model."
        )
    return model, structure.kwargs


def _create(config: ModelConfig, kwargs: Mapping[str, Any]) -> Any:
    """Makes a model of timm; what is drawn at random, such as a head for other classes, is reproducible."""
    check_timm(kwargs, "model.kwargs")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return timm.create_model(config.name, pretrained=config.pretrained, **kwargs)
    except Exception as error:  # from the network and the hub, or from timm about arguments
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if config.pretrained and isinstance(error, OSError | RuntimeError):
            raise XPrunerError(
                f"The published weights of {config.name} cannot be fetched ({reason}); give a file as model.checkpoint."
            ) from error
        raise UsageError(
            f"timm cannot build {config.name!r} with {dict(kwargs)} ({reason}); correct model.kwargs."
        ) from error
