"""A model in training, with all state that resuming needs."""

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from xpruner.config import FinetuneConfig
from xpruner.training.recipe import make_ema, make_optimizer, make_schedule
from xpruner.training.state import Snapshot, StateFolder, on_cpu, optimizer_tensors, restore_optimizer


class TrainState:
    """The student with its optimizer, schedule, weight average and gradient scaler.

    Args:
        student: Trained in place, on the accelerator's device.
        config: The recipe.
        steps: Updates in all.
        precision: Of the forward pass; under fp16 the loss is scaled.
        place: Wraps the model where there are several processes.
    """

    def __init__(self, student: nn.Module, config: FinetuneConfig, steps: int, precision: str, place: Accelerator):
        self.student, self.clip_grad = student, config.clip_grad
        self.model = place.prepare_model(student)
        student.__dict__.pop("_is_accelerate_prepared", None)  # leaves a stock model
        self.optimizer = make_optimizer(student, config)
        self.schedule = make_schedule(self.optimizer, config, steps)
        self.ema = make_ema(student, config)
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=precision == "fp16")

    def backward(self, loss: Tensor) -> Tensor:
        """Computes the gradients, scaled under fp16, and returns the loss detached."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        return loss.detach()

    def clip(self) -> float:
        """Clips the gradients and returns their norm before clipping, 0 where fp16 overflowed.

        An overflow under fp16 is not a failure: the scaler skips that update and lowers its scale.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), self.clip_grad)
        return norm.nan_to_num(0, 0, 0).item() if self.scaler.is_enabled() else norm.item()

    def update(self, step: int) -> float:
        """Makes update number ``step``, counted from 1, with the current gradients; returns its learning rate."""
        self.schedule.step_update(step - 1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.student, step=step)
        return self.optimizer.param_groups[0]["lr"]

    def snapshot(self, step: int) -> Snapshot:
        """Returns a copy, on the CPU, of all that ``restore`` needs after ``step`` updates."""
        tensors = {f"student.{name}": tensor for name, tensor in self.student.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.module.state_dict().items()}
        return Snapshot(step, on_cpu(tensors | optimizer_tensors(self.optimizer)), self.scaler.state_dict())

    def restore(self, snapshot: Snapshot) -> None:
        """Restores everything to the snapshot."""
        self.student.load_state_dict(snapshot.part("student"))
        if self.ema is not None:
            self.ema.module.load_state_dict(snapshot.part("ema"))
        restore_optimizer(self.optimizer, snapshot)
        self.scaler.load_state_dict(snapshot.scaler)

    def finish(self) -> nn.Module:
        """Returns the student in eval mode, with the averaged weights where there are any."""
        if self.ema is not None:
            self.student.load_state_dict(self.ema.module.state_dict())
        self.optimizer.zero_grad()
        return self.student.eval()


class Checkpointer:
    """Keeps the last good state of a TrainState: in memory, and on disk where there is a folder.

    It starts from the newest state in the folder, else from the TrainState's own.

    Attributes:
        good: The last good state.
        folder: Where it is stored too; None without one, and in all processes except the first.
    """

    def __init__(self, train_state: TrainState, folder: StateFolder | None, place: Accelerator):
        self.train_state = train_state
        self.folder = folder if place.is_main_process else None
        found = broadcast_object_list([self.folder.read() if self.folder is not None else None])[0]
        if found is None:
            self.keep(0)
        else:
            train_state.restore(found)
            self.good: Snapshot = found

    def keep(self, step: int) -> None:
        """Takes the current state, after ``step`` updates, as the last good one."""
        self.good = self.train_state.snapshot(step)
        if self.folder is not None:
            self.folder.write(self.good)
