"""The run directory: stages are done once, and a directory belongs to one configuration."""

import json
from dataclasses import replace

import pytest

from xpruner.config import FinetuneConfig, RunConfig
from xpruner.errors import UsageError, XPrunerError
from xpruner.run import Run


def config(tmp_path, **changes) -> RunConfig:
    return replace(RunConfig(output=str(tmp_path / "run")), **changes)


FIGURES = {"top1": 0.5, "macs": 20, "params": 10}


def test_a_stage_is_computed_once(tmp_path):
    run = Run(config(tmp_path))
    assert run.stage("dense", lambda: FIGURES) == FIGURES
    again = Run(config(tmp_path))
    assert again.stage("dense", lambda: pytest.fail("computed twice")) == FIGURES
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == {"dense": FIGURES}


def test_a_stage_that_fails_is_not_recorded(tmp_path):
    run = Run(config(tmp_path))
    with pytest.raises(ZeroDivisionError):
        run.stage("dense", lambda: {"top1": 1 / 0})
    assert "dense" not in Run(config(tmp_path)).metrics


def test_another_configuration_is_refused_by_its_first_difference(tmp_path):
    Run(config(tmp_path))
    with pytest.raises(UsageError, match=r"a run with seed 0, not 1; choose another output"):
        Run(config(tmp_path, seed=1))


def test_the_directory_may_be_moved(tmp_path):
    Run(config(tmp_path))
    (tmp_path / "run").rename(tmp_path / "moved")
    assert Run(config(tmp_path, output=str(tmp_path / "moved"))).folder == tmp_path / "moved"


def test_fine_tuning_may_change_until_it_is_finished(tmp_path):
    Run(config(tmp_path))
    run = Run(config(tmp_path, finetune=FinetuneConfig(lr=1e-5)))
    run.stage("finetuned", lambda: FIGURES)
    with pytest.raises(UsageError, match=r"finetune\.lr 1e-05, not 0\.0002"):
        Run(config(tmp_path))


def test_a_damaged_configuration_of_the_directory_is_named(tmp_path):
    Run(config(tmp_path))
    (tmp_path / "run" / "config.yaml").write_text("- seed")
    with pytest.raises(XPrunerError, match=r"config\.yaml cannot be read \(the whole is \['seed'\], but must be dict"):
        Run(config(tmp_path))


def test_broken_figures_are_named(tmp_path):
    Run(config(tmp_path))
    (tmp_path / "run" / "metrics.json").write_text("{")
    with pytest.raises(XPrunerError, match="delete it"):
        Run(config(tmp_path))
