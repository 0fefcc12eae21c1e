"""Files of a run that were damaged: each is read as it was written, or refused in one sentence that names it."""

import json
import math
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from damage import damaged, same
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save_file

from xpruner.cli.tables import stages_table
from xpruner.compare.markdown import markdown, sources_of
from xpruner.compare.results import read_result
from xpruner.compare.tables import progress_table, rows_of
from xpruner.config import RunConfig
from xpruner.config.files import read_config
from xpruner.config.typed import typed
from xpruner.errors import UsageError, XPrunerError
from xpruner.methods._outcome_files import read_masks
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.report.figures import thinned
from xpruner.report.metrics import Result, finished
from xpruner.run.folder import comparable
from xpruner.run.metrics import METRICS, read_metrics
from xpruner.run.tracking import HISTORY, Curve, read_history
from xpruner.units import Gate, UnitGroup, Units

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


def group(key: str, size: int) -> UnitGroup:
    return UnitGroup(key, key.partition(":")[2], "m", size, (Gate("m"),), 10.0, 2.0)


UNITS = Units((group("a:head", 3), group("b:hidden", 12)), 200.0, 60.0, (3, 8, 8))
SCORES = {"a:head": torch.tensor([1.0, 3.0, 2.0]), "b:hidden": torch.arange(12.0)}
PLAN = json.loads(plan_from_scores(UNITS, SCORES, Budget(0.8, round_to={"hidden": 4}), "by hand").to_json())
FIGURES = {"top1": 0.5, "macs": 100.0, "params": 20}
METRICS_OF_ALL = {
    **dict.fromkeys(("dense", "pruned", "compensated", "finetuned"), FIGURES),
    "latency": {"dense": {"1": 2.0, "8": 9.5}, "pruned": {"1": 1.0, "8": 5.0}},
}
RESULT = {
    "title": "Digits", "note": "", "command": "xpruner compare", "version": "0.1.0", "label": "L2", "length": "short",
    "images": 60, "config": {"method": "l2", "budget": "0.5", "seed": 0, "precision": "fp32",
                             "data": {"name": "digits", "val_size": 0, "batch_size": 32}},
    "stages": {"dense": {**FIGURES, "agreement": 1.0}, "cut": {**FIGURES, "agreement": 0.5}},
    "keep": {"a:head": [2, 3]}, "environment": {"torch": "2", "timm": "1", "threads": 1},
}  # fmt: skip


def read(path: Path, tree, reader):
    """Returns what a reader makes of a damaged file; None where it refuses the file in one sentence that names it."""
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    try:
        return reader(path)
    except XPrunerError as error:
        said = str(error)
        assert said.startswith(f"{path} cannot be read (") and "\n" not in said
        return None


@in_one_folder
@given(tree=damaged(PLAN))
def test_a_plan_that_is_read_fits_the_model(tmp_path, tree):
    plan = read(tmp_path / "plan.json", tree, lambda path: Plan.load(path, UNITS))
    if plan is not None:
        assert same(asdict(plan), tree)
        assert plan.sizes == {"a:head": 3, "b:hidden": 12}
        assert {
            key: [i for i, gate in enumerate(gates.tolist()) if gate] for key, gates in plan.gates().items()
        } == plan.keep
        assert not plan.cost or 0 < plan.share() <= 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keep": {"a:head": [0, 0]}}, "keep.a:head holds 0 behind 0, but must ascend, each number once"),
        ({"keep": {"a:head": [2, 1]}}, "keep.a:head holds 1 behind 2, but must ascend, each number once"),
        ({"keep": {"a:head": [0, 3]}}, "keep.a:head holds 3, but must hold numbers from 0 to 2"),
        ({"keep": {"a:head": [-1]}}, "keep.a:head holds -1, but must hold numbers from 0 to 2"),
        ({"keep": {"a:head": [1.0]}}, "keep.a:head[0] is 1.0, but must be a whole number"),
        ({"keep": {"a:head": [True]}}, "keep.a:head[0] is True, but must be a whole number"),
        ({"keep": {}}, "keep and sizes differ in a:head, b:hidden"),
        ({"sizes": {"a:head": 4}}, "The plan was made for 4 units in 'a:head' but the model has 3"),
        ({"novelty": 1}, "the whole has an unknown key 'novelty'"),
        ({"version": "1"}, "version is '1', but must be a whole number"),
        ({"version": 2}, "The plan has version 2 but this xpruner reads up to 1; update it"),
        ({"budget": {"amount": 0.5, "resource": "seconds", "round_to": {}}},
         "budget.resource is 'seconds', but must be one of macs, params"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_plan_is_said(tmp_path, changes, reason):
    nested = {
        key: {**PLAN[key], **value} if value and key in ("keep", "sizes") else value for key, value in changes.items()
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**PLAN, **nested}))
    with pytest.raises(XPrunerError) as caught:
        Plan.load(path, UNITS, "copy it again")
    assert str(caught.value).startswith(f"{path} cannot be read ({reason}") and str(caught.value).endswith(
        "copy it again."
    )


@in_one_folder
@given(tree=damaged(METRICS_OF_ALL))
def test_figures_that_are_read_can_be_shown(tmp_path, tree):
    metrics = read(tmp_path / METRICS, tree, lambda path: read_metrics(path.parent))
    if metrics is not None:
        assert same(metrics, tree)
        with suppress(UsageError):  # a stage is missing
            result = Result.of(finished(tmp_path, metrics), "macs")
            assert all(0 <= stage.top1 <= 1 for stage in result.stages) and "nan" not in result.headline
            assert stages_table(metrics).row_count == 4


@in_one_folder
@given(tree=damaged(RESULT))
def test_a_result_that_is_read_can_be_tabled(tmp_path, tree):
    result = read(tmp_path / "result.json", tree, read_result)
    if result is not None:
        assert same(result, tree)
        rows = rows_of([result])
        assert markdown(rows) and sources_of([result]) and progress_table([result], result["title"]).row_count == 1


@in_one_folder
@given(tree=damaged(comparable(RunConfig()), spared=("kwargs",)))
def test_a_configuration_that_is_read_has_the_types_of_its_options(tmp_path, tree):
    config = read(tmp_path / "config.yaml", yaml.safe_dump(tree), read_config)
    if config is not None:
        default = comparable(RunConfig())
        written = {key: {**default[key], **value} if isinstance(value, dict) else value for key, value in tree.items()}
        assert same(comparable(config), {**default, **written})
        assert typed(RunConfig, asdict(config), whole=True) == config


@in_one_folder
@given(tree=damaged([{"stage": "search", "loop": 1, "step": n, "loss": 2.0 / n, "cost": 0.5} for n in (1, 2, 3)]))
def test_lines_of_a_history_that_are_damaged_are_passed_over(tmp_path, tree):
    (tmp_path / HISTORY).write_text("".join(json.dumps(line) + "\n" for line in tree))
    for curve in read_history(tmp_path):
        assert type(curve.stage) is str and curve.steps == sorted(set(curve.steps))
        assert all(value is None or math.isfinite(value) for _, values in _plotted(curve) for value in values)


def _plotted(curve: Curve) -> list:
    return [thinned(curve.steps, values) for values in curve.figures.values()]


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ({"a:head": torch.ones(2, 3)}, "masks and model differ in b:hidden"),
        ({"b:hidden": torch.ones(2, 11)}, "b:hidden has the shape (2, 11), but the run has (2, 12) (classes, units)"),
        ({"b:hidden": torch.ones(3, 12)}, "b:hidden has the shape (3, 12), but the run has (2, 12) (classes, units)"),
        ({"b:hidden": torch.ones(2, 12, dtype=torch.int64)}, "b:hidden is torch.int64 of shape (2, 12), but must be"),
        ({"b:hidden": torch.ones(12)}, "b:hidden is torch.float32 of shape (12,), but must be (classes, units)"),
        ({"b:hidden": torch.full((2, 12), math.nan)}, "b:hidden holds a mask that is not from 0 to 1"),
        ({"b:hidden": torch.full((2, 12), -0.1)}, "b:hidden holds a mask that is not from 0 to 1"),
        ({"c:head": torch.ones(2, 3)}, "masks and model differ in c:head"),
    ],
)
def test_masks_that_are_not_those_of_the_run_are_refused(tmp_path, masks, reason):
    path = tmp_path / "masks.safetensors"
    whole = {} if masks.keys() == {"a:head"} else {"a:head": torch.ones(2, 3), "b:hidden": torch.zeros(2, 12)}
    save_file(whole | masks, path)
    with pytest.raises(XPrunerError) as caught:
        read_masks(path, UNITS, 2, "copy it again")
    assert str(caught.value).startswith(f"{path} cannot be read ({reason}") and "copy it again" in str(caught.value)


def test_masks_of_the_run_are_read(tmp_path):
    masks = {"a:head": torch.rand(2, 3), "b:hidden": torch.rand(2, 12).half()}
    save_file(masks, tmp_path / "masks.safetensors")
    found = read_masks(tmp_path / "masks.safetensors", UNITS, 2)
    assert found.keys() == masks.keys() and all(torch.equal(found[key], m) for key, m in masks.items())
