"""A step's loss and gradients, and that a CUDA graph of them is the same."""

import copy

import pytest
import torch
from tiny_training import tiny_model
from torch import nn

from xpruner.config import FinetuneConfig
from xpruner.runtime.devices import accelerator
from xpruner.training.finetune_job import FinetuneJob
from xpruner.training.options import LoopOptions
from xpruner.training.step import Graphed, make_step
from xpruner.training.train_state import TrainState


def job(train, **options) -> FinetuneJob:
    return FinetuneJob(accelerator(), train, FinetuneConfig(features=1.0, **options), LoopOptions(batch_size=4))


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 16, 16, generator=generator), torch.randint(3, (4,), generator=generator)


def test_a_step_leaves_the_gradients_of_its_loss(blobs):
    asked = job(blobs)
    student, teacher = (tiny_model(seed).to(asked.place.device) for seed in (0, 1))
    images, labels = (tensor.to(asked.place.device) for tensor in batch(0))
    expected = asked.loss(student, teacher, images, labels)
    wanted = torch.autograd.grad(expected, list(student.parameters()))
    train_state = TrainState(student, asked.config, 4, "fp32", asked.place)
    loss = make_step(asked, train_state, teacher)(images, labels)
    assert loss.item() == pytest.approx(expected.item()) and not loss.requires_grad
    for parameter, gradient in zip(student.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_graphed(blobs):
    asked = job(blobs, cuda_graph=True)
    train_state = TrainState(tiny_model(), asked.config, 4, "fp32", asked.place)
    assert not isinstance(make_step(asked, train_state, None), Graphed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_replayed_steps_train_as_steps_do(blobs):
    """The running mean of a batch norm is moved by steps alone, not by the passes before the capture."""
    start, teacher = tiny_model(), tiny_model(seed=1).cuda()
    start.patch_embed.norm = nn.Sequential(Tokens(), nn.BatchNorm1d(16), Tokens())
    trained = []
    for graphed in (False, True):
        asked = job(blobs, cuda_graph=graphed)
        train_state = TrainState(copy.deepcopy(start).cuda().train(), asked.config, 4, "fp32", asked.place)
        compute = make_step(asked, train_state, teacher)
        assert isinstance(compute, Graphed) == graphed
        losses = []
        for step in range(1, 5):
            losses.append(compute(*(tensor.cuda() for tensor in batch(step))).item())
            train_state.clip()
            train_state.update(step)
        trained.append((losses, train_state.finish().state_dict()))
    (losses, weights), (again, same) = trained
    assert again == pytest.approx(losses, rel=1e-4)
    for name, tensor in weights.items():
        torch.testing.assert_close(same[name], tensor, rtol=1e-3, atol=1e-5)


class Tokens(nn.Module):
    """(batch, tokens, dim) to (batch, dim, tokens) and back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)
