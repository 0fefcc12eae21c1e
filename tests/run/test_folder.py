"""The run directory: stages are done once, and a directory belongs to one configuration."""

import json
from dataclasses import replace

import pytest
import yaml

from xpruner.config import FinetuneConfig, RunConfig
from xpruner.errors import UsageError, XPrunerError
from xpruner.run import folder as runs
from xpruner.run.folder import Run


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


@pytest.mark.parametrize("fastest", ["bf16", "fp32"])
def test_a_new_run_is_made_in_the_fastest_precision_and_says_which(tmp_path, monkeypatch, fastest):
    monkeypatch.setattr(runs, "resolve_precision", lambda asked, device: fastest)
    assert Run(config(tmp_path)).config.precision == fastest
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["precision"] == fastest


@pytest.mark.parametrize(("begun", "fastest"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_run_goes_on_in_the_precision_it_was_begun_in(tmp_path, monkeypatch, caplog, begun, fastest):
    Run(config(tmp_path, precision=begun))
    monkeypatch.setattr(runs, "resolve_precision", lambda asked, device: fastest)
    assert Run(config(tmp_path)).config.precision == begun
    assert caplog.messages == [f"The run was begun in {begun} and continues in it; here {fastest} is faster."]


def test_another_precision_than_it_was_begun_in_is_refused_where_it_is_asked_for(tmp_path):
    Run(config(tmp_path, precision="bf16"))
    with pytest.raises(UsageError, match="a run with precision 'bf16', not 'fp32'"):
        Run(config(tmp_path, precision="fp32"))


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
