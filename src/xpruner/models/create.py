"""The dense model of a run: made by timm or read from a saved folder, with weights from wherever they lie."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xpruner._compat import declare_torchvision_ops
from xpruner.checkpoint import CONFIG, STRUCTURE, load, read_structure
from xpruner.config import FinetuneConfig, ModelConfig
from xpruner.errors import UsageError, XPrunerError
from xpruner.models.arguments import check_timm
from xpruner.models.classifier import check_single_label
from xpruner.models.of_transformers import read_transformers
from xpruner.models.weights import classes_in, load_weights
from xpruner.outputs import classes_of
from xpruner.skeleton import unknown_model

declare_torchvision_ops()

import timm

log = logging.getLogger("xpruner")

PREFIX = "transformers:"
"""In front of a name on the hub of transformers, to tell it from a folder."""


def load_model(config: ModelConfig, num_classes: int | None = None) -> tuple[nn.Module, dict[str, Any] | None]:
    """Returns the dense model that a configuration asks for, in eval mode.

    Args:
        config: Its name, its weights, its arguments.
        num_classes: Of the data, for a configuration that does not say it.

    Returns:
        The model, and the arguments of ``timm.create_model`` that made it, for ``xpruner.save``; None for a model of
        transformers, which knows its configuration.

    Raises:
        UsageError: If the name or an argument is unknown or could run code or fetch files, or the weights are not
            those of this model, not finite or not of floating point.
        XPrunerError: If a file is damaged, or published weights cannot be fetched.
    """
    if _of_transformers(config.name):
        return _from_transformers(config), None
    if _is_folder(config.name):
        return _from_folder(config, num_classes)
    if not timm.is_model(config.name):
        raise unknown_model(config.name)
    kwargs = {
        "num_classes": num_classes,
        **config.kwargs,
        **{key: getattr(config, key) for key in ("num_classes", "img_size") if getattr(config, key) is not None},
    }
    if config.checkpoint and kwargs["num_classes"] is None:
        kwargs["num_classes"] = classes_in(Path(config.checkpoint).expanduser(), config.name)
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    model = _create(config, kwargs)
    if config.checkpoint:
        load_weights(model, Path(config.checkpoint).expanduser())
    elif not config.pretrained:
        log.warning("%s has random weights; give a checkpoint, or set pretrained.", config.name)
    return model.eval(), kwargs


def load_teacher(recipe: FinetuneConfig, dense: nn.Module) -> nn.Module | None:
    """Returns what fine-tuning distils from: the model that the recipe names, else the dense one; None without either.

    Raises:
        UsageError: If there is no such model, or its classes are not as many as the dense model's.
        XPrunerError: If its published weights cannot be fetched.
    """
    if recipe.distill == 0:
        return None
    if recipe.teacher is None:
        return dense
    published = not _is_folder(recipe.teacher)
    teacher, _ = load_model(ModelConfig(recipe.teacher, pretrained=published), None if published else classes_of(dense))
    if classes_of(teacher) != classes_of(dense):
        raise UsageError(
            f"The teacher {recipe.teacher} has {classes_of(teacher)} classes but the model {classes_of(dense)}; give a "
            "teacher of the same classes, or leave it out."
        )
    return teacher


def _of_transformers(name: str) -> bool:
    folder = Path(name).expanduser()
    return name.startswith(PREFIX) or ((folder / CONFIG).is_file() and not (folder / STRUCTURE).is_file())


def _from_transformers(config: ModelConfig) -> nn.Module:
    """Reads an image classifier of transformers, from a folder of its own format or from the hub."""
    settled = [key for key in ("checkpoint", "num_classes", "img_size") if getattr(config, key)]
    if settled:
        raise UsageError(f"{config.name} is complete as it is; leave out model.{' and model.'.join(settled)}.")
    return read_transformers(config.name.removeprefix(PREFIX), config.kwargs)


def _is_folder(name: str) -> bool:
    folder = Path(name).expanduser()
    return (folder / STRUCTURE).is_file() or (not timm.is_model(name) and (folder.exists() or "/" in name))


def _from_folder(config: ModelConfig, num_classes: int | None) -> tuple[nn.Module, dict[str, Any]]:
    settled = [key for key in ("checkpoint", "pretrained", "img_size", "kwargs") if getattr(config, key)]
    if settled:
        raise UsageError(
            f"The model saved in {config.name} is complete as it is; leave out model.{' and model.'.join(settled)}."
        )
    structure = read_structure(config.name)
    model: Any = load(config.name)
    check_single_label(model)
    wanted = config.num_classes or num_classes or classes_of(model)
    if wanted != classes_of(model):
        raise UsageError(
            f"The model saved in {config.name} has {classes_of(model)} classes where {wanted} are asked for; "
            "give another model, or data of as many classes."
        )
    return model, structure.kwargs


def _create(config: ModelConfig, kwargs: Mapping[str, Any]) -> Any:
    """Makes a model of timm; what is drawn at random, such as a head for other classes, is the same every time."""
    check_timm(kwargs, "model.kwargs")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return timm.create_model(config.name, pretrained=config.pretrained, **kwargs)
    except Exception as error:  # from the network and the hub, or whatever timm raises at arguments it does not take
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if config.pretrained and isinstance(error, OSError | RuntimeError):
            raise XPrunerError(
                f"The published weights of {config.name} cannot be had ({reason}); give a file as model.checkpoint."
            ) from error
        raise UsageError(
            f"timm cannot build {config.name!r} with {dict(kwargs)} ({reason}); correct model.kwargs."
        ) from error
