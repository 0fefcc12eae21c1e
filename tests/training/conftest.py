import pytest
from tiny_training import Blobs, tiny_model
from torch import nn


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture
def student() -> nn.Module:
    return tiny_model(drop_rate=0.1, drop_path_rate=0.1)


@pytest.fixture
def teacher() -> nn.Module:
    return tiny_model(seed=1)
