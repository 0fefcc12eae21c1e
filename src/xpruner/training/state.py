"""Training state on disk: one file for each checkpoint, written atomically, tensors and JSON only."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from xpruner.errors import UsageError
from xpruner.files import write_whole

log = logging.getLogger("xpruner")


@dataclass
class Snapshot:
    """The state of a training run after ``step`` updates.

    Attributes:
        step: Updates made.
        tensors: Weights, averages and optimizer state on the CPU, by dotted names.
        scaler: The gradient scaler's numbers; empty without one.
    """

    step: int
    tensors: dict[str, Tensor]
    scaler: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Returns the tensors whose names begin with ``prefix.``, without it."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns the optimizer's state under names such as ``optimizer.3.exp_avg``."""
    states = optimizer.state_dict()["state"].items()
    return {f"optimizer.{index}.{key}": tensor for index, state in states for key, tensor in state.items()}


def restore_optimizer(optimizer: Optimizer, snapshot: Snapshot) -> None:
    """Restores the state that :func:`optimizer_tensors` returned; the learning rates are unchanged."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in snapshot.part("optimizer").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor.clone()  # the optimizer will write into it
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns copies that later steps do not change."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


class StateFolder:
    """The two newest snapshots of one run: if the newest is damaged, the one before it is read.

    Args:
        folder: Where they lie; created when the first is written.
        identity: What a run must share with the one that wrote a snapshot to resume from it; JSON values.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder, self.identity = folder, identity
        self.newest: Path | None = None

    def write(self, snapshot: Snapshot) -> None:
        """Adds a snapshot, then removes all except it and the one before.

        Raises:
            XPrunerError: If the disk is full or the folder cannot be written; earlier snapshots are unchanged.
        """
        path = self.folder / f"step-{snapshot.step:08d}.safetensors"
        rest = {"step": snapshot.step, "scaler": snapshot.scaler, "identity": self.identity}

        def fill(temporary: Path) -> None:  # safetensors' save_file hides the errno of a full disk
            temporary.write_bytes(safetensors.torch.save(snapshot.tensors, {"state": json.dumps(rest)}))

        write_whole(path, fill)
        for other in set(self.folder.glob("*step-*.safetensors*")) - {path, self.newest}:
            other.unlink()
        self.newest = path

    def read(self) -> Snapshot | None:
        """Returns the newest readable snapshot, with a logged warning for each unreadable one; None without one.

        Raises:
            UsageError: If it was written by a run of another identity.
        """
        paths = sorted(self.folder.glob("step-*.safetensors"), reverse=True)
        for path in paths:
            try:
                snapshot, identity = _read(path)
            except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
                log.warning("The training state %s cannot be read (%s).", path, error)
                continue
            self._check(identity)
            self.newest = path
            return snapshot
        if paths:
            log.warning("No training state in %s can be read; training starts from scratch.", self.folder)
        return None

    def _check(self, theirs: dict[str, Any]) -> None:
        for key in sorted(self.identity.keys() | theirs.keys()):
            was, now = theirs.get(key), self.identity.get(key)
            if was != now:
                raise UsageError(
                    f"The training state in {self.folder} was made with {key} {was}, not {now}; "
                    "give another folder, or delete this one to start from scratch."
                )


def _read(path: Path) -> tuple[Snapshot, dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        rest = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return Snapshot(rest["step"], tensors, rest["scaler"]), rest["identity"]
