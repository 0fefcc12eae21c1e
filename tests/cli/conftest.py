"""A tiny dataset and a tiny model to run commands on."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import xpruner


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Dark and light images of 16 x 16 pixels: 8 of each to train on, and 3 dark and 1 light to test on."""
    folder = tmp_path_factory.mktemp("images")
    for split, name, value, count in (
        ("train", "dark", 20, 8),
        ("train", "light", 220, 8),
        ("test", "dark", 20, 3),
        ("test", "light", 220, 1),
    ):
        (folder / split / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (16, 16), (value + number,) * 3).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def says_dark(tmp_path_factory) -> Path:
    """A saved model of two classes that takes every image for the first one."""
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **sizes)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([1.0, 0.0])
    folder = tmp_path_factory.mktemp("model")
    xpruner.save(model, folder)
    return folder
