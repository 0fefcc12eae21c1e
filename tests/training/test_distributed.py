"""Several processes do together what one does alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("distributed_run.py")


def launch(out: Path, *launcher: str) -> None:
    out.mkdir()
    paths = os.pathsep.join([str(SCRIPT.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launcher, str(SCRIPT), str(out)], env=environment, check=True, timeout=300)


@pytest.mark.integration
def test_two_processes_train_and_evaluate_as_one_does(tmp_path):
    """Two halves of a batch have the gradient of the whole; 11 images do not fill the last batch of 2 x 2."""
    launch(tmp_path / "one")
    launch(tmp_path / "two", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
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
