"""Which files of a folder are images of a class, and how the others are counted."""

import os
from pathlib import Path

import pytest

from xpruner.data.folders import HIDDEN, NO_EXTENSION, NO_FILE, OUTSIDE, find_images
from xpruner.data.sources import ClassFolders
from xpruner.errors import UsageError

from .conftest import RED, paint

READ = ["png", "jpg", "jpeg", "jfif", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "pnm"]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(images: list[str]) -> list[str]:
    return [Path(image).name for image in images]


@pytest.mark.parametrize("extension", [*READ, "WEBP", "JPEG", "Tif"])
def test_what_pillow_reads_itself_is_read_whatever_the_case(tmp_path, extension):
    path = tmp_path / "cat" / f"1.{extension}"
    paint(path, RED)
    source = ClassFolders(tmp_path)
    assert source.found.read == {f".{extension.lower()}": 1} and not source.found.left_out
    red, green, _ = source.open(0).convert("RGB").getpixel((0, 0))
    assert (red, green) == (254, 0) if "j" in extension.lower() else (red > 70 and source.open(0).size == (8, 8))


def test_other_files_are_counted_by_extension(tmp_path):
    touch(tmp_path / "cat" / "1.png", *(tmp_path / "cat" / name for name in ("1.txt", "2.TXT", "a.heic", "README")))
    touch(tmp_path / "beside.jpg", tmp_path / "list.csv")
    found = find_images(tmp_path)[1]
    assert found.read == {".png": 1}
    assert found.left_out == {".txt": 2, ".heic": 1, NO_EXTENSION: 1, OUTSIDE: 1, ".csv": 1}


def test_hidden_files_and_what_systems_leave_behind_are_counted_at_every_depth(tmp_path):
    cat = tmp_path / "cat"
    touch(cat / "1.png", cat / "deep" / "2.png")
    touch(cat / ".ipynb_checkpoints" / "1.png", cat / "deep" / ".git" / "a" / "3.png", cat / "._1.png")
    touch(
        cat / "Thumbs.db", cat / "desktop.ini", cat / "@eaDir" / "1.png" / "THUMB.jpg", tmp_path / "__MACOSX" / "4.png"
    )
    images, found = find_images(tmp_path)
    assert images.keys() == {"cat"} and names(images["cat"]) == ["1.png", "2.png"]
    assert found.read == {".png": 2} and found.left_out == {HIDDEN: 7} and not found.empty


def test_class_folders_without_an_image_are_named_with_what_lies_in_them(tmp_path):
    touch(tmp_path / "ant" / "1.png", tmp_path / "bee" / "1.heic", tmp_path / "bee" / "2.heic")
    (tmp_path / "cow").mkdir()
    images, found = find_images(tmp_path)
    assert images.keys() == {"ant"} and found.empty == {"bee": {".heic": 2}, "cow": {}}


def test_linked_folders_are_followed_but_never_in_a_circle(tmp_path):
    data = tmp_path / "data"
    touch(data / "cat" / "1.png", tmp_path / "elsewhere" / "2.png")
    (data / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (data / "cat" / "self").symlink_to(data / "cat")
    (data / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "back").symlink_to(data / "cat")
    (data / "whole").symlink_to(data)
    images, _ = find_images(data)
    assert images.keys() == {"cat"} and names(images["cat"]) == ["1.png", "2.png"]


def test_links_to_nowhere_and_pipes_are_no_files(tmp_path):
    touch(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "cat" / "3.png").symlink_to(tmp_path / "cat" / "3.png")
    os.mkfifo(tmp_path / "cat" / "4.png")
    images, found = find_images(tmp_path)
    assert names(images["cat"]) == ["1.png"] and found.left_out == {NO_FILE: 3}


def test_files_lie_in_natural_order(tmp_path):
    touch(*(tmp_path / "cat" / f"{number}.png" for number in (10, 9, 1)))
    assert names(find_images(tmp_path)[0]["cat"]) == ["1.png", "9.png", "10.png"]


def test_where_no_image_is_found_what_lies_there_is_told(tmp_path):
    touch(tmp_path / "cat" / "1.heic", tmp_path / "1.png")
    with pytest.raises(UsageError, match=r"\.bmp, .* in class folders, but 1 outside of class folders, 1 \.heic;"):
        ClassFolders(tmp_path)
