"""Pixels made by hand, in every mode that an image file may have, and what becomes of them."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from xpruner.data.rgb import as_rgb, image_extensions, open_image


def pixels(image: Image.Image) -> list:
    """Returns the first row as RGB."""
    found = as_rgb(image)
    assert found.mode == "RGB"
    return np.asarray(found)[0].tolist()


def greys(image: Image.Image) -> list[int]:
    row = pixels(image)
    assert all(len(set(pixel)) == 1 for pixel in row)
    return [pixel[0] for pixel in row]


def stored(image: Image.Image, kind: str, **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return Image.open(buffer)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bits_are_scaled_to_8(kind):
    """257 times a value of 8 bits is that value with 16 bits."""
    deep = Image.fromarray(np.array([[0, 1, 100 * 257, 65535]], np.uint16))
    assert greys(deep) == greys(stored(deep, kind)) == [0, 0, 100, 255]


def test_a_dark_image_of_16_bits_stays_dark():
    assert greys(stored(Image.fromarray(np.array([[0, 257, 514]], np.uint16)), "png")) == [0, 1, 2]


def test_16_bits_the_other_way_round():
    assert greys(Image.frombytes("I;16B", (2, 1), np.array([25700, 65535], ">u2").tobytes())) == [100, 255]


def test_a_pgm_file_of_16_bits():
    data = b"P5 3 1 65535\n" + np.array([0, 25700, 65535], ">u2").tobytes()
    assert greys(Image.open(io.BytesIO(data))) == [0, 100, 255]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 25700, 65535], np.int32, [0, 100, 255]),
        ([-5, 2**30, 2**31 - 1], np.int32, [0, 128, 255]),
        ([0, 0.2, 1], np.float32, [0, 51, 255]),
        ([0, 100, 255], np.float32, [0, 100, 255]),
        ([0, 25700, 65535], np.float32, [0, 100, 255]),
        ([-1, np.nan, 1], np.float32, [0, 0, 255]),
    ],
)
def test_integers_of_32_bits_and_floats_are_scaled_by_the_least_white_that_holds_them(values, dtype, expected):
    image = Image.fromarray(np.array([values], dtype))
    assert image.mode == ("F" if dtype is np.float32 else "I")
    assert greys(image) == expected


def test_transparency_leaves_the_colour_below_it():
    assert pixels(Image.new("RGBA", (1, 1), (10, 20, 30, 0))) == [[10, 20, 30]]
    assert pixels(Image.new("LA", (1, 1), (10, 0))) == [[10, 10, 10]]


def test_a_palette_with_transparent_colours_is_read_without_a_warning():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(stored(image, "png", transparency=bytes([0, 128]))) == [[10, 20, 30], [200, 100, 50]]


@pytest.mark.parametrize("kind", ["tiff", "jpeg"])
def test_inks_become_light(kind):
    assert pixels(stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind))[0] == [255, 0, 0]
    assert pixels(stored(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), kind))[0] == [0, 0, 0]


def turned(orientation: int) -> list[list[int]]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = stored(Image.fromarray(np.array([[10, 20], [30, 40]], np.uint8)), "png", exif=exif)
    return np.asarray(as_rgb(image))[..., 0].tolist()


def test_an_image_is_put_upright_as_the_camera_noted():
    assert turned(1) == [[10, 20], [30, 40]]
    assert turned(3) == [[40, 30], [20, 10]]  # half a turn
    assert turned(6) == [[30, 10], [40, 20]]  # a quarter clockwise
    assert turned(8) == [[20, 40], [10, 30]]


def test_damaged_notes_of_the_camera_are_no_reason_to_refuse_an_image():
    image = stored(Image.new("RGB", (4, 2), (9, 9, 9)), "jpeg", exif=b"Exif\x00\x00garbage!")
    assert as_rgb(image).size == (4, 2)


def test_what_other_programs_would_decode_is_not_opened(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    assert Image.open(path).format == "EPS"  # whatever the name says
    with pytest.raises(UnidentifiedImageError):
        open_image(path)
    assert ".eps" not in image_extensions() and {".png", ".jpeg", ".webp", ".tif", ".gif"} <= image_extensions()


def test_an_image_far_too_large_is_told_and_not_decoded(tmp_path):
    path = tmp_path / "1.ppm"
    path.write_bytes(b"P6 60000 60000 255\n")
    with pytest.raises(Image.DecompressionBombError, match="3600000000 pixels"):
        open_image(path)
