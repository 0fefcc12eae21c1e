"""What all tests share: fixed seeds, and models small enough to run in milliseconds."""

import os
import random
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import: no test may reach for a network

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from run_and_die import tiny_run
from tiny_models import SWIN, VIT, build
from torch import nn

from xpruner.config import FinetuneConfig, MaskConfig, ThresholdConfig
from xpruner.run.finished import FinishedRun, open_run
from xpruner.run.pipeline import run_pipeline

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


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory) -> Path:
    """A run with heads, hidden units and query-key dimensions, on digits with random weights."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    torch.manual_seed(0)
    config = replace(
        tiny_run(str(folder)), units=["head", "hidden", "qk"], thresholds=ThresholdConfig(), masks=MaskConfig(),
        finetune=FinetuneConfig(steps=2),
    )  # fmt: skip
    run_pipeline(config)
    return folder


@pytest.fixture
def finished(finished_folder: Path) -> FinishedRun:
    return open_run(finished_folder)


@pytest.fixture(scope="session")
def browser():
    from headless import start_browser

    driver = start_browser()
    yield driver
    driver.quit()
