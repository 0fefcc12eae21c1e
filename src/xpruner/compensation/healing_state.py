"""The network after each healed block, on disk: one file, whole or not at all."""

import json
import logging
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from xpruner.errors import UsageError
from xpruner.files import write_whole

log = logging.getLogger("xpruner")

NAME = "healed.safetensors"


class HealingState:
    """Where healing keeps how far it is.

    Args:
        folder: Of the file; None keeps nothing.
        identity: What a call must share with the one that wrote the file to go on from it; JSON values.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any]):
        self.path = folder / NAME if folder is not None else None
        self.identity = identity

    def write(self, model: nn.Module, done: int) -> None:
        """Writes the network after so many blocks, in place of the state before.

        Raises:
            XPrunerError: If the disk is full or the folder cannot be written.
        """
        if self.path is None:
            return
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        about = {"state": json.dumps({"done": done, "identity": self.identity})}
        write_whole(self.path, lambda temporary: temporary.write_bytes(safetensors.torch.save(tensors, about)))

    def restore(self, model: nn.Module) -> int:
        """Puts the stored weights into a network that was cut by the same plan, and returns how many blocks are healed.

        That is 0 where nothing is stored, or nothing that can be read.

        Raises:
            UsageError: If it was written under other options.
        """
        if self.path is None or not self.path.exists():
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                about = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            done, identity = about["done"], about["identity"]
        except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
            log.warning("The state %s cannot be read (%s); healing begins anew.", self.path, error)
            return 0
        for key in sorted(self.identity.keys() | identity.keys()):
            if identity.get(key) != self.identity.get(key):
                raise UsageError(
                    f"{self.path} was made with {key} {identity.get(key)}, not {self.identity.get(key)}; give another "
                    "folder, or delete it to begin anew."
                )
        self._load(model, tensors)
        return done

    def _load(self, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        own = model.state_dict().keys()
        for name in tensors.keys() - own:  # a bias that the closed form gave to a layer without one
            path, _, attribute = name.rpartition(".")
            layer = model.get_submodule(path)
            setattr(layer, attribute, nn.Parameter(tensors[name].to(next(layer.parameters()))))
        model.load_state_dict(tensors)
