import pytest
import torch
from torch import nn

from xpruner.errors import UsageError
from xpruner.runtime.modes import evaluating
from xpruner.training import evaluate


class Brightest(nn.Module):
    """Votes for the brightest channel, and notes what it was called with."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.calls = []

    def forward(self, *inputs):
        self.calls.append((len(inputs), len(inputs[0]), self.training, torch.is_inference_mode_enabled()))
        return self.dropout(inputs[0].mean(dim=(2, 3)))


def test_share_of_right_answers(blobs):
    """All are right but the five whose labels are turned."""
    blobs.labels[:5] = (blobs.labels[:5] + 1) % 3
    assert evaluate(Brightest(), blobs, batch_size=5) == 7 / 12


def test_the_model_sees_images_alone_in_eval_mode(blobs):
    model = Brightest()
    evaluate(model, blobs, batch_size=5)
    assert model.calls == [(1, 5, False, True), (1, 5, False, True), (1, 2, False, True)]


def test_labels_do_not_reach_the_model(blobs):
    """Other labels change the accuracy but not one logit."""
    logits = []
    for shift in range(2):
        model = Brightest()
        model.register_forward_hook(lambda module, args, output: logits.append(output))
        blobs.labels = (blobs.labels + shift) % 3
        evaluate(model, blobs)
    assert torch.equal(*logits)


def test_every_module_gets_its_mode_back(blobs):
    model = Brightest().train()
    model.dropout.eval()
    evaluate(model, blobs)
    assert model.training
    assert not model.dropout.training


def test_modes_come_back_after_an_error():
    model = Brightest().train()
    with pytest.raises(RuntimeError, match="stop"), evaluating(model):
        assert not model.dropout.training
        raise RuntimeError("stop")
    assert model.dropout.training


def test_bf16_is_used(student, blobs):
    seen = []
    student.head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    evaluate(student, blobs, precision="bf16")
    assert seen == [torch.bfloat16]


def test_no_images_is_refused(student, blobs):
    blobs.labels = blobs.labels[:0]
    with pytest.raises(UsageError, match="no images to evaluate"):
        evaluate(student, blobs)
