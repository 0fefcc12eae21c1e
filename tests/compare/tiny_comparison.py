"""A comparison that takes seconds: a small ViT on digits."""

from pathlib import Path

import timm
import torch
import yaml
from run_and_die import TINY
from safetensors.torch import save_file


def write_comparison(folder: Path, listed: dict, **changes) -> Path:
    """Writes the dense weights and the YAML file of a comparison into a folder, and returns the path of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=10, **TINY)
    save_file(model.state_dict(), folder / "dense.safetensors")
    config = {
        "title": "Digits",
        "note": "Random weights.",
        "output": str(folder / "results"),
        "work": str(folder / "work"),
        "budgets": ["0.5"],
        "seeds": [0],
        "length": "short",
        "lengths": {"short": {"search": {"steps": 4}, "finetune": {"steps": 6, "checkpoint_every": 2}},
                    "untrained": {"search": {"steps": 4}, "finetune": {"steps": 0}}},
        "base": {
            "model": {"name": "vit_tiny_patch16_224", "img_size": 16, "num_classes": 10, "kwargs": TINY,
                      "checkpoint": str(folder / "dense.safetensors")},
            "data": {"name": "digits", "train_size": 160, "test_size": 60, "calibration_size": 64, "batch_size": 32},
            "precision": "fp32",
            "rounds": 2,
        },
        "entries": listed,
    }  # fmt: skip
    path = folder / "comparison.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path
