"""Image classifiers of transformers, from a folder of its own format or from its hub, without running foreign code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xpruner.errors import UsageError, require
from xpruner.models.arguments import check_config, check_transformers
from xpruner.models.classifier import check_single_label
from xpruner.models.tensors import check_types, check_weights

ADAPTER = "adapter_config.json"


def read_transformers(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Returns a classifier in float32 and eval mode; a folder is read without the network.

    Args:
        name: A folder, or a name on the hub.
        kwargs: Fields of the model's configuration to override.

    Raises:
        UsageError: If there is no such model, its weights are incomplete, not finite or not of floating point, it does
            not assign images to one class of several, or something in it could run code or fetch files.
    """
    library = require("transformers", "load this model")
    folder = Path(name).expanduser()
    local = folder.is_dir()
    place = str(folder) if local else name
    where = f"{folder / 'config.json'}" if local else f"The configuration of {name}"
    if (folder / ADAPTER).exists():
        raise UsageError(f"{folder} holds an adapter beside a model; save the model with the adapter merged in.")
    safe = {"trust_remote_code": False, "local_files_only": local}
    try:
        check_config(library.PretrainedConfig.get_config_dict(place, local_files_only=local)[0], where)
        check_transformers(kwargs, type(library.AutoConfig.from_pretrained(place, **safe)), "model.kwargs")
        model, found = library.AutoModelForImageClassification.from_pretrained(
            place, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **safe, **kwargs
        )
    except UsageError:
        raise
    except Exception as error:  # from the hub, or from transformers about a folder that it cannot read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UsageError(
            f"transformers cannot load {name!r} ({reason}); give a folder or hub name of an image classifier whose "
            "weights are safetensors."
        ) from error
    if found["missing_keys"]:
        raise UsageError(f"{name} lacks the weight {min(found['missing_keys'])!r}; give a completely trained model.")
    if local:
        check_types(folder, dict(model.named_parameters()))
    check_weights(model, name)
    check_single_label(model)
    return model.eval()
