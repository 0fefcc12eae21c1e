import errno

import pytest

from xpruner.errors import XPrunerError
from xpruner.files import write_text, write_whole


def test_text_arrives_with_its_folders_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "plan.json"
    write_text(path, "× ünits")
    assert path.read_text(encoding="utf-8") == "× ünits"
    assert [file.name for file in path.parent.iterdir()] == ["plan.json"]


def test_a_file_is_readable_by_whom_the_umask_allows(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "whole", "")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def half(temporary):
    temporary.write_text("ha")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(XPrunerError, match=r"Cannot write .*a\.txt: the disk is full; free some space, then run"):
        write_whole(path, half)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted(temporary):
        temporary.write_text("ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.txt", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_not_there_before_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    seen = []

    def write(temporary):
        seen.append((temporary.parent, path.exists()))
        temporary.write_text("whole")

    write_whole(path, write)
    assert seen == [(tmp_path, False)]
    assert path.read_text() == "whole"


def test_who_reads_the_old_file_meanwhile_reads_it_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(XPrunerError, match=r"Cannot write .*file/a\.txt: .* make it writable, then run"):
        write_text(tmp_path / "file" / "a.txt", "")
