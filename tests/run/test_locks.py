"""One program a folder: the second is told who works there, and what is left by a program that died holds nobody up."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from run_and_die import tiny_run

from xpruner.cli import main
from xpruner.errors import UsageError, XPrunerError
from xpruner.run import locks
from xpruner.run.locks import LOCK, claimed, working_in
from xpruner.run.pipeline import run_pipeline

HOLD = (
    "import sys, time, pathlib; from xpruner.run.locks import working_in; lock = working_in(pathlib.Path(sys.argv[1]))"
)


def test_a_lock_is_had_once(tmp_path):
    path = tmp_path / "new" / "a.lock"
    with claimed(path) as first, claimed(path) as second:
        assert (first, second) == (True, False)
        assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert not path.exists()
    with claimed(path) as again:
        assert again


def test_a_folder_is_worked_in_by_one_program_who_says_who_it_is(tmp_path):
    who = f"process {os.getpid()} on {socket.gethostname()}"
    with working_in(tmp_path), pytest.raises(UsageError) as caught, working_in(tmp_path):
        pytest.fail("both work in the folder")
    assert str(caught.value) == f"{tmp_path} is in use by {who}; wait until it ends, or choose another output."


def test_a_second_run_touches_nothing(tmp_path):
    with working_in(tmp_path), pytest.raises(UsageError, match="is in use by process"):
        run_pipeline(tiny_run(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["demo"], ["specialise", "--classes", "1,2", "--run"]])
def test_other_commands_that_write_are_refused_as_well(finished_folder, tmp_path, capsys, words):
    run = [str(finished_folder)] if "--run" in words else []
    with working_in(tmp_path):
        assert main([*words, *run, "--output", str(tmp_path)]) == 2
    assert f"{tmp_path} is in use by process {os.getpid()}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_reading_commands_need_no_lock(finished_folder):
    with working_in(finished_folder):
        assert main(["explain", "class", "3", str(finished_folder)]) == 0


def test_a_folder_into_which_nothing_was_written_is_gone_again(tmp_path):
    with working_in(tmp_path / "runs" / "one"):
        assert (tmp_path / "runs" / "one" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    with working_in(tmp_path / "runs" / "one"):
        (tmp_path / "runs" / "one" / "log.txt").touch()
    assert [path.name for path in (tmp_path / "runs" / "one").iterdir()] == ["log.txt"]


def test_the_lock_of_a_program_that_was_killed_is_free(tmp_path):
    script = f"{HOLD}; lock.__enter__(); print('works', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "works\n"
        with pytest.raises(UsageError, match=f"in use by process {other.pid} on"), working_in(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
    with working_in(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} ")


def test_a_process_that_was_forked_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    with working_in(tmp_path):
        child = context.Process(target=ready.wait)
        child.start()
    with working_in(tmp_path):
        ready.set()
    child.join()


def test_a_disk_without_locks_is_warned_of_or_refused(tmp_path, monkeypatch, caplog):
    def unknown(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", unknown)
    with working_in(tmp_path):
        assert "has no locks (Operation not supported)" in caplog.text
    with pytest.raises(UsageError, match="cannot be locked"), claimed(tmp_path / "a.lock"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(XPrunerError, match=r"Cannot write to .*file: .*; choose another output"):
        run_pipeline(replace(tiny_run(str(tmp_path / "file")), seed=1))


def test_only_the_first_process_of_a_run_locks(tmp_path, monkeypatch):
    class Second:
        is_main_process = False

    monkeypatch.setattr(locks, "PartialState", Second)
    with working_in(tmp_path), working_in(tmp_path):
        assert list(tmp_path.iterdir()) == []
