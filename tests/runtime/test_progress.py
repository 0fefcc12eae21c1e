import io
import logging
import sys

import pytest

from xpruner.runtime import progress
from xpruner.runtime.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass from one look at the clock to the next, 20 unless changed."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 20.0
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", monotonic)


def run(caplog, **kwargs) -> list[str]:
    with caplog.at_level(logging.INFO, logger="xpruner"), Progress("training", 10, **kwargs) as show:
        for _ in range(4):
            show.advance(60, loss=0.5)
    return caplog.messages


def test_a_line_every_interval_with_rate_values_and_time_left(caplog, clock):
    """Steps end at 20, 40, 60 and 80 s: 60 images in 20 s, and eight more steps of 20 s from the second on."""
    assert run(caplog) == [
        "training: step 2 of 10, 3 images/s, loss 0.5, 0:02:40 left",
        "training: step 4 of 10, 3 images/s, loss 0.5, 0:02:00 left",
    ]


def test_a_continued_run_counts_only_its_own_time(caplog, clock):
    assert run(caplog, start=5)[0] == "training: step 7 of 10, 3 images/s, loss 0.5, 0:01:00 left"


def test_other_processes_are_silent(caplog, clock):
    assert run(caplog, enabled=False) == []


def test_a_bar_on_a_terminal_and_no_lines(caplog, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(caplog, interval=0.0) == []
    assert "training" in terminal.getvalue()
    assert "4/10" in terminal.getvalue()
    assert "loss 0.5" in terminal.getvalue()
