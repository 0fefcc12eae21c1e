"""The history of a run: loops told apart, a stopped run gone on with, lines that a kill cut short."""

import json
import logging
import math

import pytest

from xpruner.run.tracking import HISTORY, Tracker, read_history


def track(folder, stage: str, steps: list[tuple[int, dict]]) -> None:
    with Tracker(folder) as tracker:
        write = tracker.scalars(stage)
        for step, figures in steps:
            write(step, figures)


def found(folder) -> list[tuple]:
    return [(curve.stage, curve.loop, curve.steps, curve.figures) for curve in read_history(folder)]


def test_a_folder_without_a_history_has_no_curves(tmp_path):
    assert read_history(tmp_path) == []


def test_each_stage_has_curves_of_its_own(tmp_path):
    track(tmp_path, "search", [(1, {"loss": 3.0}), (2, {"loss": 2.0})])
    track(tmp_path, "finetune", [(1, {"loss": 1.0})])
    assert found(tmp_path) == [
        ("search", 1, [1, 2], {"loss": [3.0, 2.0]}),
        ("finetune", 1, [1], {"loss": [1.0]}),
    ]


def test_a_loop_ends_where_steps_start_again_or_figures_have_other_names(tmp_path):
    track(tmp_path, "search", [(1, {"loss": 3.0}), (2, {"loss": 2.0}), (1, {"loss": 9.0}), (2, {"cost": 0.5})])
    assert found(tmp_path) == [
        ("search", 1, [1, 2], {"loss": [3.0, 2.0]}),
        ("search", 2, [1], {"loss": [9.0]}),
        ("search", 3, [2], {"cost": [0.5]}),
    ]


def test_a_run_that_goes_on_replaces_the_steps_that_it_repeats(tmp_path):
    track(tmp_path, "search", [(1, {"loss": 3.0}), (2, {"loss": 2.0})])
    track(tmp_path, "search", [(2, {"loss": 2.5}), (3, {"loss": 1.0})])
    assert found(tmp_path) == [("search", 1, [1, 2, 3], {"loss": [3.0, 2.5, 1.0]})]


def test_a_line_that_was_cut_short_costs_that_line_alone(tmp_path):
    track(tmp_path, "search", [(1, {"loss": 3.0})])
    with (tmp_path / HISTORY).open("a") as file:
        file.write('{"stage": "search", "lo')
    track(tmp_path, "search", [(2, {"loss": 2.0})])
    assert found(tmp_path) == [("search", 1, [1, 2], {"loss": [3.0, 2.0]})]


def test_a_figure_that_a_step_lacks_is_nan(tmp_path):
    lines = [
        {"stage": "search", "loop": 1, "step": 1, "loss": 3.0, "cost": 0.5},
        {"stage": "search", "loop": 1, "step": 2, "loss": 2.0},
    ]
    (tmp_path / HISTORY).write_text("".join(json.dumps(line) + "\n" for line in lines))
    ((_, _, steps, figures),) = found(tmp_path)
    assert steps == [1, 2] and figures["loss"] == [3.0, 2.0]
    assert figures["cost"][0] == 0.5 and math.isnan(figures["cost"][1])


def test_names_make_no_lines_of_their_own_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("xpruner"), "propagate", False)  # pytest-xdist cannot send on such names
    with Tracker(tmp_path) as tracker:
        tracker.open()
        logging.getLogger("xpruner").info("of %s", "cat\n12:00 done\x1b[2J \udce9")
    (line,) = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert line.endswith(" of cat\\n12:00 done\\x1b[2J \\udce9")


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with Tracker(tmp_path) as tracker:
        tracker.open()
        logging.getLogger("xpruner").info("lost")
    assert capsys.readouterr().err == ""


def test_nothing_is_written_before_the_run_is_opened_and_then_all_of_it(tmp_path):
    log = logging.getLogger("xpruner")
    with Tracker(tmp_path / "run") as tracker:
        log.info("first")
        assert not (tmp_path / "run").exists()
        tracker.open()
        log.info("second")
    lines = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split()[-1] for line in lines] == ["first", "second"]


def test_a_run_that_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), Tracker(tmp_path / "run"):
        logging.getLogger("xpruner").info("lost")
        1 / 0  # noqa: B018
    assert not (tmp_path / "run").exists()
