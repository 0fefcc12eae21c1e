import pytest
import torch
from tiny_models import MODELS, footprint, tiny, units_of
from torch import nn

from xpruner.calibration.sensitivity import token_weights


class TwoTokensCount(nn.Module):
    """Of four tokens the logits read the first, and the second twice as much."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.head = nn.Linear(2, 5)
        self.unread = nn.Linear(3, 2)

    def forward(self, x):
        self.unread(x)
        out = self.layer(x)
        return self.head(out[:, 0] + 2 * out[:, 1])


def images(*shape):
    return [(torch.randn(6, *shape), torch.zeros(6))]


@pytest.mark.parametrize("focus", [0.25, 1.0])
def test_weights_by_hand(focus):
    weights = token_weights(TwoTokensCount(), ["layer"], images(4, 3), focus)["layer"]
    torch.testing.assert_close(weights, focus * torch.tensor([0.8, 3.2, 0.0, 0.0]) + 1 - focus)


def test_what_no_logit_hangs_on_counts_alike():
    assert token_weights(TwoTokensCount(), ["unread"], images(4, 3), 0.7)["unread"].tolist() == [1.0] * 4


def test_without_focus_there_are_no_weights():
    assert token_weights(TwoTokensCount(), ["layer"], images(4, 3), 0.0) == {}


def test_after_the_last_attention_the_class_token_alone_counts(tiny_vit):
    path = "blocks.1.mlp.fc2"
    weights = token_weights(tiny_vit, [path], images(*units_of("vit").input_size), 0.7)[path]
    torch.testing.assert_close(weights[1:], torch.full((len(weights) - 1,), 0.3))
    assert weights[0].item() == pytest.approx(0.7 * len(weights) + 0.3)


@pytest.mark.parametrize("name", MODELS)
def test_every_consumer_has_weights_of_mean_one_and_the_model_stays(name):
    model, units = tiny(name), units_of(name)
    paths = list(units.of_consumers())
    before = footprint(model)
    weights = token_weights(model, paths, images(*units.input_size), 0.7)
    assert footprint(model) == before
    assert list(weights) == paths
    for found in weights.values():
        assert found.mean().item() == pytest.approx(1, abs=1e-5)
        assert found.min() >= 0.3 - 1e-6
