"""``xpruner`` itself: it answers at once, and every bad end is one sentence and an exit status."""

import errno
import io
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from cli_process import ENVIRONMENT, one_line, python, xpruner

from xpruner import __version__, cli
from xpruner.cli import console
from xpruner.cli.tables import new_table
from xpruner.errors import FULL_DISK, UsageError, XPrunerError

HEAVY = ["torch", "timm", "transformers", "captum", "plotly", "matplotlib", "datasets", "accelerate"]


def test_help_answers_at_once_and_names_every_command():
    start = time.perf_counter()
    done = xpruner("--help")
    assert time.perf_counter() - start < 1.5
    assert done.returncode == 0
    assert [name for name in cli.COMMANDS if f"\n  {name} " not in done.stdout] == []


def test_version():
    assert xpruner("--version").stdout == f"xpruner {__version__}\n"


@pytest.mark.parametrize(
    "code", ["import xpruner", "from xpruner.cli import main; main(['export-config', '--preset', 'paper'])"]
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    done = python("-c", f"{code}; import sys; print('loaded:', [name for name in {HEAVY} if name in sys.modules])")
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prnue"], "Unknown command 'prnue'; did you mean 'prune'?"),
        (["--hepl"], "Unknown flag '--hepl'; did you mean '--help'?"),
        (
            [],
            "No command is given; choose one of prune, evaluate, inspect, compare, report, explain, explore, "
            "specialise, export-config, demo, or ask for --help.",
        ),
    ],
)
def test_a_wrong_command_is_answered_with_the_nearest(arguments, said):
    done = xpruner(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert one_line(done.stderr) == f"xpruner: error: {said}"


@pytest.fixture
def command(monkeypatch):
    """Makes ``xpruner boom`` raise what it is given."""

    def raising(error: BaseException) -> None:
        def run(arguments: list[str]) -> None:
            raise error

        module = ModuleType("boom")
        module.run = run
        monkeypatch.setitem(sys.modules, "boom", module)
        monkeypatch.setitem(cli.COMMANDS, "boom", ("boom", "Raises."))

    return raising


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UsageError("No such\nthing."), 2, "error: No such thing."),
        (XPrunerError("The disk is full."), 1, "error: The disk is full."),
        (KeyboardInterrupt(), 130, "stopped; the same command continues from here."),
        (
            ZeroDivisionError("by zero"),
            1,
            "error: An unexpected ZeroDivisionError (by zero); set XPRUNER_DEBUG=1 to see where it comes from.",
        ),
    ],
)
def test_every_bad_end_is_one_line_and_a_status(error, status, said, command, capsys, monkeypatch):
    monkeypatch.delenv("XPRUNER_DEBUG", raising=False)
    command(error)
    assert cli.main(["boom"]) == status
    assert capsys.readouterr() == ("", f"xpruner: {said}\n")


def test_debugging_shows_the_traceback(command, capsys, monkeypatch):
    monkeypatch.setenv("XPRUNER_DEBUG", "1")
    command(UsageError("Wrong."))
    assert cli.main(["boom"]) == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert last == "xpruner: error: Wrong."


def test_output_that_nobody_reads_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "xpruner", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, env=ENVIRONMENT)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_that_is_full_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "xpruner", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, text=True, env=ENVIRONMENT)
    assert (done.returncode, one_line(done.stderr)) == (1, f"xpruner: error: {FULL_DISK}")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_output_that_is_closed_is_no_error(closed):
    command = f"'{sys.executable}' -m xpruner --help {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, b"")


def test_errors_that_cannot_be_shown_keep_their_status():
    command = f"'{sys.executable}' -m xpruner prnue 2>/dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_disk_that_fills_up_on_the_way_is_one_sentence(command, capsys):
    command(OSError(errno.ENOSPC, "No space left on device"))
    assert cli.main(["boom"]) == 1
    assert capsys.readouterr().err == f"xpruner: error: {FULL_DISK}\n"


def test_a_terminal_that_knows_ascii_alone_shows_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    table = new_table("Käse", "top-1 %")
    table.add_row("猫", "1.5×")
    monkeypatch.setitem(cli.COMMANDS, "boom", ("boom", "Shows."))
    module = ModuleType("boom")
    module.run = lambda arguments: console.show(table, "88 → 90 %")
    monkeypatch.setitem(sys.modules, "boom", module)
    assert cli.main(["boom"]) == 0
    shown = stream.buffer.getvalue().decode("ascii")
    assert "\\u732b" in shown and "1.5\\xd7" in shown and "88 \\u2192 90 %" in shown


EVIL = "cat\x1b[2J\nxpruner: done \u202e"
SHOWN = "cat\\x1b[2J\\nxpruner: done \\u202e"


def test_names_cannot_steer_the_terminal(capsys):
    table = new_table("class")
    table.add_row(EVIL)
    console.show(table, f"Class {EVIL}.")
    with console.showing_log():
        logging.getLogger("xpruner").info("of %s", EVIL)
    shown = capsys.readouterr()
    assert f"  {SHOWN} " in shown.out and shown.out.endswith(f"Class {SHOWN}.\n")
    assert shown.err.endswith(f" of {SHOWN}\n")


def test_errors_cannot_steer_the_terminal(command, capsys):
    command(UsageError(f"No class {EVIL}."))
    assert cli.main(["boom"]) == 2
    assert capsys.readouterr().err == "xpruner: error: No class cat\\x1b[2J xpruner: done \\u202e.\n"


def test_json_keeps_names_as_they_are(capsys):
    console.show_json({"name": EVIL, "path": "caf\udce9"})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"name": EVIL, "path": "caf\udce9"} and shown.isascii() and "\x1b" not in shown


def test_the_traceback_of_the_unexpected_is_in_the_log_of_the_run(tmp_path):
    with pytest.raises(XPrunerError) as raised, console.tracing(tmp_path):
        raise ZeroDivisionError("by zero")
    log = tmp_path / "log.txt"
    assert str(raised.value) == f"An unexpected ZeroDivisionError stopped the run (by zero); its traceback is in {log}."
    assert "Traceback (most recent call last)" in log.read_text()
    assert log.read_text().endswith("ZeroDivisionError: by zero\n")


def test_the_traceback_is_where_the_message_points_before_there_is_a_run(tmp_path):
    with pytest.raises(XPrunerError, match=r"its traceback is in .*log\.txt"), console.tracing(tmp_path / "run"):
        raise KeyError("odd")
    assert "KeyError: 'odd'" in (tmp_path / "run" / "log.txt").read_text()


def test_the_expected_has_no_traceback_in_the_log(tmp_path):
    with pytest.raises(UsageError, match=r"^Wrong\.$"), console.tracing(tmp_path):
        raise UsageError("Wrong.")
    assert not (tmp_path / "log.txt").exists()
