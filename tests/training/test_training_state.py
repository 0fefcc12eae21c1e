import errno
import os
from pathlib import Path

import pytest
import torch

from xpruner.errors import UsageError, XPrunerError
from xpruner.training.state import Snapshot, StateFolder

IDENTITY = {"lr": 0.1, "seed": 0}


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"student.weight": torch.full((2,), float(step)), "optimizer.0.step": torch.tensor(1.0)})


def write(folder: Path, *steps: int) -> StateFolder:
    state = StateFolder(folder, IDENTITY)
    for step in steps:
        state.write(snapshot(step))
    return state


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_step(folder: Path) -> int | None:
    found = StateFolder(folder, IDENTITY).read()
    return found and found.step


def test_what_is_read_is_what_was_written(tmp_path):
    state = Snapshot(3, {"student.a.b": torch.rand(2, 2), "ema.a.b": torch.rand(2, 2)}, {"scale": 0.1, "growth": 2})
    StateFolder(tmp_path, IDENTITY).write(state)
    found = StateFolder(tmp_path, IDENTITY).read()
    assert (found.step, found.scaler) == (3, {"scale": 0.1, "growth": 2})
    assert found.tensors.keys() == state.tensors.keys()
    assert torch.equal(found.part("student")["a.b"], state.tensors["student.a.b"])
    assert found.part("ema").keys() == {"a.b"}


def test_the_two_newest_are_kept(tmp_path):
    write(tmp_path, 1, 2, 30, 4000)
    assert names(tmp_path) == ["step-00000030.safetensors", "step-00004000.safetensors"]
    assert read_step(tmp_path) == 4000


def test_nothing_there_is_no_state_and_no_warning(tmp_path, caplog):
    assert read_step(tmp_path) is None
    assert read_step(tmp_path / "absent") is None
    assert caplog.messages == []


@pytest.mark.parametrize("damage", [b"", b"\x08", b"not a tensor file, not at all"], ids=["empty", "short", "other"])
def test_a_broken_newest_state_gives_way_to_the_one_before(tmp_path, caplog, damage):
    write(tmp_path, 1, 2)
    (tmp_path / "step-00000002.safetensors").write_bytes(damage)
    assert read_step(tmp_path) == 1
    assert "step-00000002.safetensors cannot be read" in caplog.messages[0]


def test_a_state_cut_short_gives_way(tmp_path):
    write(tmp_path, 1, 2)
    newest = tmp_path / "step-00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    assert read_step(tmp_path) == 1


def test_with_nothing_readable_training_starts_from_scratch_with_a_warning(tmp_path, caplog):
    write(tmp_path, 1, 2)
    for path in tmp_path.iterdir():
        path.write_bytes(b"damage")
    assert read_step(tmp_path) is None
    assert caplog.messages[-1] == f"No training state in {tmp_path} can be read; training starts from scratch."


def test_broken_states_do_not_push_out_good_ones(tmp_path):
    write(tmp_path, 7, 8)
    (tmp_path / "step-00000008.safetensors").write_bytes(b"damage")
    state = StateFolder(tmp_path, IDENTITY)
    assert state.read().step == 7
    (tmp_path / "step-00000009.safetensors").write_bytes(b"damage")
    state.write(snapshot(8))
    assert names(tmp_path) == ["step-00000007.safetensors", "step-00000008.safetensors"]
    assert read_step(tmp_path) == 8


def test_remains_of_a_killed_write_are_swept(tmp_path):
    (tmp_path / ".step-00000001.safetensors.x1y2").write_bytes(b"half")
    write(tmp_path, 1)
    assert names(tmp_path) == ["step-00000001.safetensors"]


def test_a_state_of_another_seed_is_refused(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(UsageError) as caught:
        StateFolder(tmp_path, {"lr": 0.1, "seed": 5}).read()
    assert str(caught.value) == (
        f"The training state in {tmp_path} was made with seed 0, not 5; "
        "give another folder, or delete this one to start from scratch."
    )


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    state = write(tmp_path, 1)

    def full(*args) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(XPrunerError, match="the disk is full"):
        state.write(snapshot(2))
    assert names(tmp_path) == ["step-00000001.safetensors"]
    assert read_step(tmp_path) == 1


def test_no_pickle_is_written(tmp_path):
    """A pickle would begin with byte 0x80; this begins with the length of a JSON header."""
    write(tmp_path, 1)
    content = (tmp_path / "step-00000001.safetensors").read_bytes()
    assert content[8:9] == b"{"
