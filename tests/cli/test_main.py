"""``xpruner`` itself: it answers at once, and every bad end is one sentence and an exit status."""

import os
import subprocess
import sys
import time
from types import ModuleType

import pytest
from cli_process import ENVIRONMENT, one_line, python, xpruner

from xpruner import __version__, cli
from xpruner.cli import console
from xpruner.errors import UsageError, XPrunerError

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


def test_the_traceback_of_the_unexpected_goes_to_the_log_of_the_run(tmp_path):
    with pytest.raises(XPrunerError) as raised, console.tracing(tmp_path):
        raise ZeroDivisionError("by zero")
    log = tmp_path / "log.txt"
    assert str(raised.value) == f"An unexpected ZeroDivisionError stopped the run (by zero); its traceback is in {log}."
    assert "Traceback (most recent call last)" in log.read_text()
    assert log.read_text().endswith("ZeroDivisionError: by zero\n")


def test_the_expected_has_no_traceback_in_the_log(tmp_path):
    with pytest.raises(UsageError, match=r"^Wrong\.$"), console.tracing(tmp_path):
        raise UsageError("Wrong.")
    assert not (tmp_path / "log.txt").exists()
