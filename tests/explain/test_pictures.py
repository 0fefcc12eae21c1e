"""Images and maps as pictures."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from xpruner.data import InputSpec
from xpruner.errors import XPrunerError
from xpruner.explain.pictures import GAP, data_uri, heated, pixels_of, side_by_side, write_png

SPEC = InputSpec((2, 2), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_the_normalisation_is_taken_back():
    image = torch.tensor([-2.0, 0.0, 2.0]).view(3, 1, 1).expand(3, 2, 2)
    assert pixels_of(image, SPEC)[0, 0].tolist() == [0.0, 0.5, 1.0]


def test_a_map_colours_where_it_is_positive():
    """Where it is 0 or less the grey image stays; at its maximum four fifths of the lightest colour are laid over."""
    pixels = np.full((1, 3, 3), 0.5)
    shown = heated(pixels, np.array([[-3.0, 0.0, 2.0]]))
    assert np.allclose(shown[0, 0], 0.5) and np.allclose(shown[0, 1], 0.5)
    assert np.allclose(shown[0, 2], 0.2 * 0.5 + 0.8 * np.array([252, 255, 164]) / 255)


def test_a_map_of_nothing_leaves_the_grey_image():
    pixels = np.array([[[0.0, 0.3, 0.9]]])
    assert np.allclose(heated(pixels, np.zeros((1, 1))), 0.4)


def test_small_pictures_are_kept_exactly_and_large_ones_made_smaller():
    small = np.arange(12).reshape(2, 2, 3) / 11
    address = data_uri(small)
    assert address.startswith("data:image/png;base64,")
    assert np.abs(np.asarray(opened(address)) / 255 - small).max() <= 0.5 / 255 + 1e-9
    large = data_uri(np.zeros((640, 320, 3)))
    assert large.startswith("data:image/jpeg;base64,") and opened(large).size == (80, 160)


def test_a_picture_is_as_large_as_it_is_asked_for():
    assert opened(data_uri(np.zeros((640, 320, 3)), 400)).size == (200, 400)


def test_pictures_side_by_side_are_enlarged_and_have_white_between_them():
    """100 pixels fit twice into 224, so every pixel becomes 2 x 2; larger ones are left as they are."""
    dark, light = np.zeros((100, 50, 3)), np.full((100, 50, 3), 0.5)
    dark[3, 7] = 1
    row = side_by_side([dark, light])
    assert row.shape == (200, 2 * 100 + GAP, 3)
    assert np.argwhere(row[:, :100, 0] == 1).tolist() == [[6, 14], [6, 15], [7, 14], [7, 15]]
    assert (row[:, 100 : 100 + GAP] == 1).all() and (row[:, 100 + GAP :] == 0.5).all()
    assert side_by_side([np.zeros((300, 300, 3))]).shape == (300, 300, 3)


def test_a_picture_is_written_as_it_is(tmp_path):
    write_png(tmp_path / "new" / "picture.png", np.arange(12).reshape(2, 2, 3) / 255)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]
    assert np.asarray(Image.open(tmp_path / "new" / "picture.png")).tolist() == np.arange(12).reshape(2, 2, 3).tolist()


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(XPrunerError, match=r"Cannot write .*picture\.png"):
        write_png(tmp_path / "file" / "picture.png", np.zeros((2, 2, 3)))
