"""Forward and backward pass of a training step: one operation after the other, or replayed as one CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xpruner.training.finetune_job import FinetuneJob
from xpruner.training.train_state import TrainState

Compute = Callable[[Tensor, Tensor], Tensor]
"""From images and targets to the loss, detached; leaves its gradients in the student's parameters."""

WARM_UP = 3
"""Passes before a graph is captured, in which libraries initialise."""


def make_step(job: FinetuneJob, train_state: TrainState, teacher: nn.Module | None) -> Compute:
    """Returns a function that computes the loss and gradients of a batch, as a CUDA graph if the recipe asks for
    one."""

    def compute(images: Tensor, targets: Tensor) -> Tensor:
        return train_state.backward(job.loss(train_state.model, teacher, images, targets))

    return Graphed(compute, train_state) if job.config.cuda_graph and can_be_graphed(job, train_state) else compute


def can_be_graphed(job: FinetuneJob, train_state: TrainState) -> bool:
    """Returns whether a step is the same sequence of kernels every time: on one CUDA device, its loss not scaled."""
    return job.place.device.type == "cuda" and job.place.num_processes == 1 and not train_state.scaler.is_enabled()


class Graphed:
    """A step that is captured at its first call and replayed from then on, for batches of one shape.

    A small model's step is hundreds of kernels of a few microseconds each, which take a processor longer to launch
    than a GPU to run.

    Args:
        compute: The step.
        train_state: Whose student it trains; its gradients must keep their memory, which the graph writes to.
    """

    def __init__(self, compute: Compute, train_state: TrainState):
        self.compute, self.train_state = compute, train_state
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        if self.graph is None:
            self._capture(images, targets)
        assert self.graph is not None
        self.images.copy_(images)
        self.targets.copy_(targets)
        self.graph.replay()
        return self.loss

    def _capture(self, images: Tensor, targets: Tensor) -> None:
        self.images, self.targets = images.clone(), targets.clone()
        student = self.train_state.student
        buffers = {name: buffer.clone() for name, buffer in student.named_buffers()}  # such as those of batch norms
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.compute(self.images, self.targets)
        torch.cuda.current_stream().wait_stream(side)
        self.train_state.optimizer.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.loss = self.compute(self.images, self.targets)
        for name, buffer in student.named_buffers():
            buffer.copy_(buffers[name])
