import pytest
import torch
from torch import nn

from xpruner.compensation.healing_state import NAME, HealingState
from xpruner.errors import UsageError


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2, bias=False))


def test_weights_come_back_with_a_bias_that_was_not_there(tmp_path):
    healed = model()
    healed[0].bias = nn.Parameter(torch.tensor([1.0, 2.0]))
    HealingState(tmp_path / "new", {"lr": 0.1}).write(healed, 3)
    fresh = model()
    assert HealingState(tmp_path / "new", {"lr": 0.1}).restore(fresh) == 3
    assert torch.equal(fresh[0].weight, healed[0].weight)
    assert fresh[0].bias.tolist() == [1.0, 2.0]


def test_nothing_is_kept_without_a_folder_and_nothing_found_in_an_empty_one(tmp_path):
    nowhere = HealingState(None, {})
    nowhere.write(model(), 1)
    assert nowhere.restore(model()) == HealingState(tmp_path, {}).restore(model()) == 0


def test_a_state_of_other_options_is_refused(tmp_path):
    HealingState(tmp_path, {"lr": 0.1, "seed": 0}).write(model(), 1)
    with pytest.raises(UsageError, match=r"made with lr 0\.1, not 0\.2; give another folder, or delete it"):
        HealingState(tmp_path, {"lr": 0.2, "seed": 0}).restore(model())


def test_a_state_that_cannot_be_read_is_begun_anew_with_a_warning(tmp_path, caplog):
    (tmp_path / NAME).write_bytes(b"nothing of the kind")
    assert HealingState(tmp_path, {}).restore(model()) == 0
    assert "cannot be read" in caplog.text and "begins anew" in caplog.text
