"""Several processes do together what one does alone."""

import json
import socket
from pathlib import Path

import pytest
import torch
from distributed_run import run
from processes import started
from safetensors.torch import load_file


def launch(out: Path, count: int) -> None:
    """Runs it in so many processes, with the environment that torchrun would give them."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "ACCELERATE_USE_CPU": "true",
    }
    ranks = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    processes = [started(run, out, environment) for environment in ranks]
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0] * count


@pytest.mark.integration
def test_two_processes_train_and_evaluate_as_one_does(tmp_path):
    """Two halves of a batch have the gradient of the whole; 11 images do not fill the last batch of 2 x 2."""
    launch(tmp_path / "one", 1)
    launch(tmp_path / "two", 2)
    alone = json.loads((tmp_path / "one" / "0.json").read_text())
    together = [json.loads((tmp_path / "two" / f"{rank}.json").read_text()) for rank in range(2)]
    assert alone["processes"] == 1
    assert together == [{"processes": 2, "top1": alone["top1"]}] * 2
    wanted = load_file(tmp_path / "one" / "0.safetensors")
    for rank in range(2):
        found = load_file(tmp_path / "two" / f"{rank}.safetensors")
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4)
    states = [sorted(path.name for path in (tmp_path / run / "state").iterdir()) for run in ("one", "two")]
    assert states[0] == states[1] == ["step-00000004.safetensors", "step-00000006.safetensors"]
