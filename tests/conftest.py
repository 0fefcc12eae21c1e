"""What all tests share: fixed seeds, and models small enough to run in milliseconds."""

import os
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import: no test may reach for a network

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny_models import SWIN, VIT, build
from torch import nn

torch.set_num_threads(1)  # models this small only lose time to more threads

settings.register_profile("xpruner", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xpruner")


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def tiny_vit() -> nn.Module:
    return build("vit_tiny_patch16_224", **VIT)


@pytest.fixture
def tiny_deit_distilled() -> nn.Module:
    return build("deit_tiny_distilled_patch16_224", **VIT)


@pytest.fixture
def tiny_swin() -> nn.Module:
    return build("swin_tiny_patch4_window7_224", **SWIN)
