"""What the page computes from a run, against the run itself and `specialise`."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from xpruner.errors import UsageError
from xpruner.explore.answers import (
    Choice,
    Models,
    command,
    image_of,
    is_own,
    kept_units,
    models_of,
    origin,
    plan_of,
)
from xpruner.methods.xpruner.guard import GuardFigures
from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores
from xpruner.run.finished import FinishedRun, open_run
from xpruner.units.gates import gating

ALL = range(10)


@pytest.fixture(scope="module")
def run(finished_folder) -> FinishedRun:
    return open_run(finished_folder)


@pytest.fixture
def without_masks(finished_folder, tmp_path) -> FinishedRun:
    """Of a method that learns none."""
    for name in ("dense", "pruned", "plan.json", "config.yaml"):
        (tmp_path / name).symlink_to(finished_folder / name)
    return asking(open_run(tmp_path), method="l2")


def asking(run: FinishedRun, **changes) -> FinishedRun:
    """Returns the run, opened anew with other settings."""
    return FinishedRun(run.folder, replace(run.config, **changes))


def logits(model: nn.Module, run: FinishedRun) -> torch.Tensor:
    images = torch.stack([run.images[number][0] for number in range(20)])
    with torch.no_grad():
        return model(images.to(next(model.parameters()).device)).cpu()


@pytest.mark.parametrize(
    ("share", "labels", "own"), [(0.5, [], True), (0.504, ALL, True), (0.51, [], False), (0.5, [1, 2], False)]
)
def test_the_run_answers_at_its_budget_for_all_classes(run, share, labels, own):
    assert is_own(run, Choice.of(run, share, labels)) == own


def test_a_choice_of_classes_is_put_in_order_and_checked(run):
    assert Choice.of(run, 0.5, [7, 2]) == Choice(0.5, (2, 7))
    assert Choice.of(run, 0.5, ALL) == Choice(0.5)
    with pytest.raises(UsageError, match="1 of 10 classes are chosen; choose two at least"):
        Choice.of(run, 0.5, [4])


def test_the_plan_at_the_budget_of_the_run_is_its_own(run):
    assert plan_of(run, Choice(0.5)) == Plan.load(run.folder / "plan.json")


def test_other_plans_keep_the_units_of_the_largest_masks(run):
    """Masks of one half but for one hidden unit of each layer, which is needed: it is kept at the smallest budget."""
    masks = {key: torch.full_like(m, 0.5) for key, m in load_file(run.folder / "masks.safetensors").items()}
    for key, m in masks.items():
        m[:, -1] = 0.9 if key.endswith("hidden") else 0.5
    needed = asking(run)
    needed.__dict__["masks"] = masks
    plan = plan_of(needed, Choice(0.3))
    assert plan.cost["macs_pruned"] <= 0.3 * plan.cost["macs_dense"]
    assert all(run.units[key].size - 1 in kept for key, kept in plan.keep.items() if key.endswith("hidden"))


def test_for_some_classes_their_rows_alone_decide(run):
    """A unit counts the mean odds of its masks for the two classes."""
    masks = load_file(run.folder / "masks.safetensors")
    scores = {key: (m[[3, 8]] / (1 - m[[3, 8]])).mean(0) for key, m in masks.items()}
    plan = plan_of(run, Choice(0.4, (3, 8)))
    assert plan.keep == plan_from_scores(run.units, scores, Budget(0.4)).keep
    assert plan.keep != plan_of(run, Choice(0.4)).keep


def test_the_weights_of_a_guard_count_for_all_classes_and_not_for_some(run):
    """A guard that gave everything to classes 3 and 8 has ranked the units by their odds."""
    masks = load_file(run.folder / "masks.safetensors")
    weights = [5.0 if label in (3, 8) else 0.0 for label in ALL]
    scores = {key: (m[[3, 8]] / (1 - m[[3, 8]])).mean(0) for key, m in masks.items()}
    guarded = asking(run)
    guarded.__dict__["guard"] = GuardFigures(2.0, 1.5, [1.0] * 10, weights, 4000, 0.0, 3.0, 0.5, None)
    assert plan_of(guarded, Choice(0.4)).keep == plan_from_scores(run.units, scores, Budget(0.4)).keep
    assert plan_of(guarded, Choice(0.4, (1, 2))).keep == plan_of(run, Choice(0.4, (1, 2))).keep


def test_the_first_version_of_the_paper_ranks_by_the_sum_over_the_classes(run):
    config = replace(run.config.thresholds, mode="global_rank")
    choice, ranked = Choice(0.4), asking(run, thresholds=config)
    by_sum = asking(run, thresholds=replace(config, mode="learned", importance="abs_sum"))
    assert plan_of(ranked, choice).keep == plan_of(by_sum, choice).keep != plan_of(run, choice).keep


def test_a_budget_out_of_reach_is_one_sentence(run):
    with pytest.raises(UsageError, match=r"The budget of 0\.01 macs is out of reach"):
        plan_of(run, Choice(0.01))


def test_without_masks_the_run_answers_for_itself_alone(without_masks):
    own, other = Choice(0.5), Choice(0.6)
    assert models_of(without_masks, own).pruned is without_masks.pruned
    for asked in (plan_of, models_of):
        with pytest.raises(UsageError, match="has no masks, as its method 'l2' learns none"):
            asked(without_masks, other)


def test_kept_units_are_counted_by_module_and_kind():
    plan = Plan({"a.attn:head": [0, 2], "a.attn:qk": [], "a.mlp:hidden": [1]},
                {"a.attn:head": 3, "a.attn:qk": 8, "a.mlp:hidden": 4})  # fmt: skip
    assert kept_units(plan) == {"a.attn": {"head": (2, 3), "qk": (0, 8)}, "a.mlp": {"hidden": (1, 4)}}


def test_the_models_at_the_budget_of_the_run_are_its_own(run):
    assert models_of(run, Choice(0.5)) == Models(run.dense, run.pruned, [str(digit) for digit in ALL])


def test_with_everything_kept_the_model_is_the_dense_one(run):
    models = models_of(run, Choice(1.0))
    torch.testing.assert_close(logits(models.pruned, run), logits(run.dense, run))


def test_of_chosen_classes_the_logits_are_those_of_the_dense_model(run):
    models = models_of(run, Choice(1.0, (2, 7)))
    assert models.class_names == ["2", "7"]
    for model in (models.dense, models.pruned):
        torch.testing.assert_close(logits(model, run), logits(run.dense, run)[:, [2, 7]])


def test_without_images_the_model_is_cut_and_no_more(run):
    choice = Choice(0.6)
    cut = models_of(run, choice, images=0).pruned
    with gating(run.dense, run.units, plan_of(run, choice).gates()):
        expected = logits(run.dense, run)
    torch.testing.assert_close(logits(cut, run), expected, atol=1e-5, rtol=1e-4)


def test_compensation_brings_the_model_closer_to_the_dense_one(run):
    dense = logits(run.dense, run)
    cut, compensated = (logits(models_of(run, Choice(0.4), n).pruned, run) for n in (0, 64))
    assert (compensated - dense).square().mean() < 0.5 * (cut - dense).square().mean()
    assert (logits(run.dense, run) == dense).all()


def test_the_origin_of_a_model_is_a_sentence(run):
    assert origin(run, Choice(0.5)) == "The pruned model is the run's own."
    assert "compensated on 12 training images, but not trained" in origin(run, Choice(0.4), 12)
    assert "not compensated and not trained" in origin(run, Choice(0.4), 0)


def test_the_command_makes_the_model_for_good(run):
    folder = run.folder
    assert command(run, Choice(0.5)) == ""
    expected = f"xpruner prune --config {folder}/config.yaml --budget 0.4 --output {folder}-0.4"
    assert command(run, Choice(0.4)) == expected
    assert command(run, Choice(0.5, (2, 7))) == f"xpruner specialise {folder} --classes 2,7 --budget 0.5"
    by_params = command(asking(run, budget="params:0.5"), Choice(0.5, (2, 7)))
    assert by_params.endswith("--budget params:0.5")


def test_names_that_a_list_cannot_hold_are_numbers_in_the_command(run):
    named = asking(run)
    named.__dict__["data"] = replace(run.data, class_names=["tench, fish", "black cat", *map(str, range(2, 10))])
    assert "--classes '0,black cat' " in command(named, Choice(0.5, (0, 1)))


def test_an_image_is_one_of_the_run_or_of_ones_own(run, tmp_path):
    pixels, what = image_of(run, None, 3)
    assert torch.equal(pixels, run.images[3][0])
    assert what == f"Image 3 of the run, class {run.images[3][1]}"
    path = tmp_path / "mine.png"
    Image.new("L", (8, 8), 255).save(path)
    pixels, what = image_of(run, str(path), 3)
    assert what == "mine.png" and pixels.shape == (3, 16, 16) and pixels.std() == 0


@pytest.mark.parametrize(("number", "given"), [(60, "60"), (-1, "-1"), (None, "missing")])
def test_a_number_that_no_image_has_is_refused(run, number, given):
    with pytest.raises(UsageError, match=f"The number of the image is {given}; give one from 0 to 59, or upload"):
        image_of(run, None, number)


def test_an_upload_that_is_no_image_is_called_by_its_name(run, tmp_path):
    path = tmp_path / "mine.png"
    path.write_text("no image")
    with pytest.raises(UsageError, match=r"^The image mine\.png cannot be read"):
        image_of(run, str(path), 0)
