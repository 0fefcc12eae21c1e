"""Fine-tunes and evaluates in one of several processes, and writes what came out."""

import json
import os
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from tiny_training import Blobs, tiny_model

from xpruner.config import FinetuneConfig
from xpruner.training import evaluate, finetune
from xpruner.training.options import LoopOptions


def run(out: Path, environment: dict[str, str]) -> None:
    """Does it in this process, which finds the others by what launchers put into the environment."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    config = FinetuneConfig(epochs=2, lr=1e-3, ema_decay=0.9, checkpoint_every=2)
    student = finetune(tiny_model(), tiny_model(seed=1), Blobs(), config, LoopOptions(4, state_dir=out / "state"))
    result = {"processes": PartialState().num_processes, "top1": evaluate(student, Blobs(11), batch_size=4)}
    rank = PartialState().process_index
    save_file(student.state_dict(), out / f"{rank}.safetensors")
    (out / f"{rank}.json").write_text(json.dumps(result))
    PartialState().destroy_process_group()  # else gloo may abort while Python exits
