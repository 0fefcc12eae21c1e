"""Tiny datasets of plain colours, whose normalised values are known: white is 1 and black is -1."""

import io
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from xpruner.data import InputSpec

BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


def paint(path: Path, colour=BLACK, size=(8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def png(colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "png")
    return buffer.getvalue()


def write_parquet(path: Path, images: list[bytes], labels: list, image="image", label="label", names=None) -> None:
    """Writes encoded images as the hub does, with class names in the schema if there are ``names``."""
    import datasets

    rows = {image: [{"bytes": data, "path": None} for data in images], label: labels}
    if names is None:
        pyarrow.parquet.write_table(pyarrow.table(rows), path)
    else:
        features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=names)})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


@pytest.fixture
def spec() -> InputSpec:
    return InputSpec(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
