"""``xpruner explore``: what it refuses, and how it ends; its page is tested with the library."""

import signal
import subprocess
import sys

import pytest
from cli_process import ENVIRONMENT

from xpruner.cli import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "0"], "--port is 0; it must be from 1 to 65535."),
        (["--images", "-1"], "--images is -1; it must be 0 or more."),
        (["--hots", "x"], "Unknown flag '--hots'; did you mean '--host'?"),
        (["--run", "nowhere", "--no-browser"], "nowhere is no run directory"),
    ],
)
def test_a_wrong_request_gets_one_sentence(flags, message, capsys):
    assert main(["explore", *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_run_may_stand_first(capsys):
    assert main(["explore", "nowhere", "--port", "7000"]) == 2
    assert "nowhere is no run directory" in capsys.readouterr().err


def test_the_run_may_stand_last(capsys):
    assert main(["explore", "--no-browser", "--port", "7000", "nowhere"]) == 2
    assert "nowhere is no run directory" in capsys.readouterr().err


def test_without_gradio_its_extra_is_named(finished_folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["explore", str(finished_folder)]) == 2
    assert "pip install 'xpruner[explore]'" in capsys.readouterr().err


def test_the_page_is_open_until_it_is_interrupted(finished_folder):
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "xpruner", "explore", str(finished_folder), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as page:
        assert page.stdout.readline().startswith("The page is at http://127.0.0.1:")
        page.send_signal(signal.SIGINT)
        out, err = page.communicate(timeout=60)
    assert (page.returncode, out, "Traceback" in err) == (0, "", False)
