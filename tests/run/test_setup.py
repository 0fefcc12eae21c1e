"""Whatever a later stage could not work with is refused before anything is computed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run_and_die import tiny_run

from xpruner.config import CompensateConfig, FinetuneConfig, MaskConfig, RunConfig, SearchConfig
from xpruner.errors import UsageError
from xpruner.run import setup as module
from xpruner.run.setup import Setup, check_options


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    torch.manual_seed(0)  # the dense model's random weights
    return tiny_run(str(tmp_path / "run"))


ALONE = [
    ({"method": "l2", "max_class_drop": 2.0}, "max_class_drop is 2, but the method 'l2' guards no classes"),
    ({"method": "flap", "compensate": CompensateConfig("affine")}, r"compensate\.mode is affine, which fits the dense"),
    ({"method": "l3"}, "Unknown method 'l3'; did you mean"),
    ({"budget": "0"}, "The budget '0' is out of range"),
    ({"search": SearchConfig(options={"rate": 1})}, "The method 'xpruner' has no options of its own; leave"),
]
"""What shows in the options alone."""


@pytest.mark.parametrize(("change", "message"), ALONE)
def test_what_the_options_alone_show_is_refused_before_a_model_is_loaded(config, monkeypatch, change, message):
    monkeypatch.delattr(module, "load_model")
    with pytest.raises(UsageError, match=message):
        Setup.load(replace(config, **change))


TOGETHER = [
    ({"budget": "0.01"}, r"The budget of 0\.01 macs is out of reach"),
    ({"max_class_drop": 0.5}, r"max_class_drop is 0\.5, for which 200 training images of each class are needed"),
    ({"finetune": FinetuneConfig(epochs=1, teacher="no_such_model")}, "no_such_model"),
    ({"masks": MaskConfig(evidence="taylr")}, "did you mean 'taylor'"),
    ({"precision": "fp16"}, "precision is fp16|Precision fp16 needs a GPU"),
]
"""What shows with the model and the images."""


@pytest.mark.parametrize(("change", "message"), TOGETHER)
def test_what_shows_with_model_and_images_is_refused_before_the_first_stage(config, monkeypatch, change, message):
    monkeypatch.delattr(module, "calibration_batches")  # what every stage begins with
    with pytest.raises(UsageError, match=message):
        Setup.load(replace(config, **change))


def test_a_setup_under_another_configuration_has_its_units_and_budget_and_loads_nothing_again(config):
    first = Setup.load(config)
    batches = first.calibration
    other = first.under(replace(config, method="isomorphic", units=None, budget="0.7"))
    assert other.dense is first.dense and other.data is first.data and other.calibration is batches
    assert {group.kind for group in first.units} == {"head", "hidden"}
    assert {group.kind for group in other.units} == {"head", "hidden", "embed"}
    assert (first.budget.amount, other.budget.amount) == (0.5, 0.7)


def test_the_teacher_is_the_dense_model_unless_labels_alone_teach(config):
    setup = Setup.load(config)
    assert setup.teacher is setup.dense
    assert setup.under(replace(config, finetune=FinetuneConfig(distill=0.0))).teacher is None


def test_a_good_configuration_passes(config):
    check_options(config)
