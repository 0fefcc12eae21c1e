"""What all tests share: fixed seeds, and models small enough to run in milliseconds."""

import os
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import: no test may reach for a network

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from xpruner._compat import declare_torchvision_ops

declare_torchvision_ops()

import timm

torch.set_num_threads(1)  # models this small only lose time to more threads

settings.register_profile("xpruner", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xpruner")


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def build(name: str, **kwargs) -> nn.Module:
    """Returns a timm model for five classes of 32-pixel images, in eval mode, with all its parameters stirred.

    A fresh model's biases and position tables are zero or nearly so, and forgetting to cut them would go unnoticed.
    """
    model = timm.create_model(name, img_size=32, num_classes=5, **kwargs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.fixture
def tiny_vit() -> nn.Module:
    return build("vit_tiny_patch16_224", patch_size=8, embed_dim=24, depth=2, num_heads=3)


@pytest.fixture
def tiny_deit_distilled() -> nn.Module:
    return build("deit_tiny_distilled_patch16_224", patch_size=8, embed_dim=24, depth=2, num_heads=3)


@pytest.fixture
def tiny_swin() -> nn.Module:
    return build(
        "swin_tiny_patch4_window7_224", patch_size=2, window_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 4)
    )
