"""Images and maps as pictures."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from xpruner.data import InputSpec
from xpruner.report.pictures import data_uri, heated, pixels_of

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
