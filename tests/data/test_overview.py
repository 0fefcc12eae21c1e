"""The line that shows what was found."""

import numpy as np
import pytest
from PIL import Image

from xpruner.config import DataConfig
from xpruner.data import InputSpec, load_data
from xpruner.data.overview import in_one_line, overview

SPEC = InputSpec((32, 48), (0.5, 0.5, 0.5), (0.25, 0.5, 0.5), "bilinear", 0.875)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, counts in (("train", {"ant": 2, "bee": 4}), ("test", {"ant": 1, "bee": 1})):
        for name, count in counts.items():
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.{'png' if i else 'webp'}")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("no image")
    return tmp_path


def test_everything_is_counted(folder):
    assert overview(load_data(DataConfig(str(folder)), SPEC, 0)) == {
        "classes": ["ant", "bee"],
        "images": {"training": 6, "test": 2},
        "fewest": ["ant", 2],
        "most": ["bee", 4],
        "read": {".webp": 4, ".png": 4},
        "left_out": {".txt": 1},
        "unreadable": 0,
        "input": SPEC.to_dict(),
    }


def test_it_is_said_in_one_line(folder):
    assert in_one_line(overview(load_data(DataConfig(str(folder)), SPEC, 0)), SPEC) == (
        "2 classes (ant, bee); images: 6 training, 2 test; training images a class: 2 (ant) to 4; files read: 4 .webp, "
        "4 .png; passed over: 1 .txt; input 48 x 32 px, bilinear, center crop 0.875, mean 0.5, 0.5, 0.5, "
        "std 0.25, 0.5, 0.5"
    )


def test_an_unreadable_image_is_counted(folder):
    (folder / "test" / "bee" / "broken.png").write_bytes(b"")
    found = overview(load_data(DataConfig(str(folder)), SPEC, 0))
    assert (found["unreadable"], found["images"]["test"]) == (1, 2)
    assert "unreadable: 1" in in_one_line(found, SPEC)
