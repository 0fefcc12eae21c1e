"""A folder as timm saves a model for its hub: ``config.json`` beside the weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpruner.data.spec import InputSpec
from xpruner.errors import UsageError, XPrunerError

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class TimmFolder:
    """The content of such a folder.

    Attributes:
        architecture: timm's name of the model.
        kwargs: The arguments of ``timm.create_model``.
        weights: The file of its weights.
        pretrained_cfg: timm's description of its input.
        class_names: Of the classifier's outputs in order, where the folder has them.
    """

    architecture: str
    kwargs: dict[str, Any]
    weights: Path
    pretrained_cfg: Mapping[str, Any]
    class_names: tuple[str, ...] | None

    def preprocessing(self, built: InputSpec) -> InputSpec:
        """Returns the preprocessing: the folder's values, and the model's own for the rest.

        Raises:
            UsageError: If no image could be prepared this way.
        """
        said = {name: value for name, value in self.pretrained_cfg.items() if value is not None}
        return InputSpec.from_dict({**built.to_dict(), **said})


def is_timm_folder(name: str) -> bool:
    """Returns whether a folder holds a model as timm saves it."""
    try:
        config = json.loads((Path(name).expanduser() / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "architecture" in config and "pretrained_cfg" in config


def read_timm_folder(folder: Path) -> TimmFolder:
    """Reads a folder that :func:`is_timm_folder` accepts.

    Raises:
        UsageError: If it has no weights.
        XPrunerError: If its ``config.json`` is damaged.
    """
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise UsageError(f"{folder} has neither {' nor '.join(WEIGHTS)}; copy the weights into it.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        about = {**config["pretrained_cfg"]}
        kwargs = {
            **config.get("model_args", {}),
            "num_classes": int(config.get("num_classes", about.get("num_classes"))),
        }
        if about.get("fixed_input_size") and about.get("input_size"):
            kwargs.setdefault("img_size", about["input_size"][-1])
        names = config.get("label_names") or about.get("label_names")
        if isinstance(names, dict):
            names = [names[number] for number in sorted(names, key=int)]
        return TimmFolder(
            str(config["architecture"]), kwargs, weights, about, tuple(map(str, names)) if names else None
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise XPrunerError(
            f"{folder / CONFIG} is damaged ({type(error).__name__}: {error}); save the model again."
        ) from error
