from dataclasses import replace

import numpy as np
import pytest
import tiny_transformers
import torch
from PIL import Image
from tiny_models import MODELS, tiny
from torch import nn

import xpruner
from xpruner.config import ThresholdConfig
from xpruner.data import ImageDataset, InputSpec
from xpruner.data.dataset import Reader
from xpruner.data.sources import Digits
from xpruner.errors import UsageError
from xpruner.masks.class_masks import reduce_classes
from xpruner.models.classifier import keep_classes
from xpruner.run.finished import FinishedRun, open_run
from xpruner.run.specialise import check_choice, plan_for, save_specialised, specialise


@pytest.mark.parametrize("name", MODELS)
def test_the_chosen_logits_are_those_of_the_whole_model(name):
    model = tiny(name)
    images = torch.randn(2, 3, *(model.patch_embed.img_size if "swin" in name else (32, 32)))
    with torch.no_grad():
        whole, chosen = model(images), keep_classes(model, [3, 0])(images)
    torch.testing.assert_close(chosen, whole[:, [3, 0]])
    assert model.num_classes == 5


@pytest.mark.parametrize("name", ["deit", "deit distilled"])
def test_the_chosen_logits_of_a_model_of_transformers_are_those_of_the_whole(name):
    model = tiny_transformers.MODELS[name]().eval()
    whole_labels = model.config.num_labels
    images = torch.randn(2, 3, tiny_transformers.SIDE, tiny_transformers.SIDE)
    chosen = keep_classes(model, [1, 0])
    with torch.no_grad():
        torch.testing.assert_close(chosen(images).logits, model(images).logits[:, [1, 0]])
    assert chosen.config.num_labels == chosen.num_labels == 2 and model.config.num_labels == whole_labels


def test_a_classifier_that_is_not_linear_is_refused():
    with pytest.raises(UsageError, match="The classifier of Conv2d is no linear layer"):
        keep_classes(nn.Conv2d(1, 1, 1), [0, 1])


def test_images_of_some_classes_are_labelled_by_their_place(finished_folder):
    images = open_run(finished_folder).images
    chosen = images.of_classes([7, 2])
    assert len(chosen) == int(((images.labels == 7) | (images.labels == 2)).sum())
    numbers = [number for number, label in enumerate(images.labels) if label in (7, 2)]
    for index, number in enumerate(numbers):
        assert [7, 2][chosen[index][1]] == images.labels[number]
        assert torch.equal(chosen[index][0], images[number][0])
    first = images.of_classes([7, 2]).readable(3)
    assert len(first) == 3 and all(torch.equal(first[i][0], chosen[i][0]) for i in range(3))
    assert chosen.labels.tolist() == [label for _, label in chosen] == chosen.plain().labels.tolist()
    again = chosen.of_classes([1, 0])  # 2 and 7, in the numbering of the chosen ones
    assert again.labels.tolist() == [1 - label for label in chosen.labels.tolist()]


class ThirdIsDamaged(Digits):
    """Digits 0, 1, 2, ..., of which number 2 cannot be read."""

    def open(self, record: int) -> Image.Image:
        if record == 2:
            raise OSError("it is damaged")
        return super().open(record)


def test_no_image_of_another_class_stands_for_one_that_cannot_be_read():
    spec = InputSpec((8, 8), (0.5,) * 3, (0.5,) * 3)
    images = ImageDataset(Reader(ThirdIsDamaged(), max_unreadable=1), np.arange(13), spec)
    to_train_with = images.of_classes([2, 1])  # records 2, 12 and 1, 11
    assert [label for _, label in to_train_with] == [1, 1, 1, 0]
    assert torch.equal(to_train_with[1][0], images[11][0])
    to_measure_on = images.of_classes([2, 1]).readable(10)
    assert [label for _, label in to_measure_on] == [1, 1, 0]


def test_the_units_that_the_chosen_classes_need_most_stay(finished_folder):
    """At least as much evidence of the chosen classes is kept as the class-agnostic plan of the same cost keeps."""
    run = open_run(finished_folder)
    found = specialise(run, [3, 8], "0.5", rounds=0)
    assert found.class_names == ["3", "8"] and found.model.num_classes == 2
    assert found.metrics["compensated"]["macs"] / found.metrics["dense"]["macs"] == pytest.approx(0.5, abs=0.02)
    importance = {key: reduce_classes(m[[3, 8]], "odds") for key, m in run.masks.items()}

    def kept(plan):
        return sum(importance[g.key][plan.keep[g.key]].sum() * g.macs for g in run.units)

    assert kept(found.plan) > kept(run.plan)


def test_rounds_go_on_from_what_the_masks_decide_first(finished_folder):
    """With one round, the masks cut to the square root of a half, and that network is looked at anew."""
    run = open_run(finished_folder)
    by_masks = plan_for(run, [3, 8], 0.5**0.5, rounds=0)
    plan = plan_for(run, [3, 8], "0.5", rounds=1)
    assert all(set(plan.keep[key]) <= set(by_masks.keep[key]) for key in plan.keep)
    assert plan.keep != plan_for(run, [3, 8], "0.5", rounds=0).keep
    assert run.units.cost(plan.keep) / run.units.total() == pytest.approx(0.5, abs=0.02)


def test_a_specialised_model_is_saved_and_trained_further(finished_folder, tmp_path):
    run = open_run(finished_folder)
    found = specialise(run, [1, 4, 5], "0.5", steps=2)
    assert list(found.metrics) == ["dense", "cut", "compensated", "finetuned"]
    save_specialised(run, found, tmp_path / "model")
    again, images = xpruner.load(tmp_path / "model"), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(images), found.model(images))
    assert again.num_classes == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "0 of 10 classes are chosen; choose two at least and not all"),
        ([4], "1 of 10 classes are chosen"),
        (range(10), "10 of 10 classes are chosen"),
        ([1, 2, 1], "The classes 1, 2, 1 are not all different; name each once."),
    ],
)
def test_a_choice_that_is_none_is_refused(finished_folder, labels, message):
    with pytest.raises(UsageError, match=message):
        specialise(open_run(finished_folder), labels, "0.5")


def test_classes_are_told_apart_by_their_numbers():
    names = ["crane", "dog", "crane", "owl"]
    check_choice([0, 2], names)
    with pytest.raises(UsageError) as caught:
        check_choice([2, 1, 2], names)
    assert str(caught.value) == "The classes crane (2), dog, crane (2) are not all different; name each once."


def test_the_plan_reads_the_masks_as_the_run_did(finished_folder):
    """By |sum of masks| the unit that two classes have half counts most; by odds, the one that one has wholly."""
    run = open_run(finished_folder)
    key = "blocks.0.mlp:hidden"
    masks = {name: torch.full_like(m, 0.99) for name, m in run.masks.items()}
    masks[key][3, :48], masks[key][8, :48] = 0.95, 0.0
    masks[key][[3, 8], 48:] = 0.6
    for mode, half in (("learned", range(48)), ("global_rank", range(48, 96))):
        opened = FinishedRun(run.folder, replace(run.config, thresholds=ThresholdConfig(mode=mode)))
        vars(opened)["masks"] = masks
        kept = set(plan_for(opened, [3, 8], "0.9", rounds=0).keep[key])
        assert 8 < len(kept) < 96 and (kept <= set(half) or kept >= set(half))
