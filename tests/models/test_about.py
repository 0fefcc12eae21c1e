"""Notes on a model are kept with it: on a copy, in a folder, and back again."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from tiny_models import VIT, build
from tiny_transformers import tiny

from xpruner.data import InputSpec
from xpruner.models.about import about, known_classes, note, warn_of_accuracy
from xpruner.models.checkpoint import load, save
from xpruner.models.preprocessing import read_preprocessing

NAMES = ("ant", "bee", "cow", "dog", "elk")


@pytest.fixture
def vit():
    return build("vit_tiny_patch16_224", **VIT)


def test_a_saved_folder_keeps_preprocessing_classes_and_accuracy(vit, tmp_path):
    spec = InputSpec((32, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "lanczos", 0.8, "squash")
    save(vit, tmp_path, input_spec=spec, class_names=NAMES, top1=0.75)
    model = load(tmp_path)
    assert InputSpec.of(model) == InputSpec.of(copy.deepcopy(model)) == spec
    assert known_classes(model).names == NAMES
    assert about(model).top1 == 0.75


def test_what_was_noted_is_saved_again(vit, tmp_path):
    spec = replace(InputSpec.of(vit), mean=(0.5, 0.5, 0.5), crop_pct=0.9)
    note(vit, input=spec, class_names=NAMES)
    save(vit, tmp_path)
    assert InputSpec.of(load(tmp_path)) == spec
    assert known_classes(load(tmp_path)).names == NAMES


def test_a_folder_that_transformers_reads_says_how_it_prepares_images(tmp_path):
    model = tiny("vit")
    side = InputSpec.of(model).size
    spec = InputSpec(side, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, "squash")
    save(model, tmp_path, input_spec=spec)
    assert read_preprocessing(str(tmp_path), True) == spec
    assert InputSpec.of(load(tmp_path)) == spec


def test_a_folder_without_accuracy_is_read(vit, tmp_path):
    save(vit, tmp_path)
    structure = json.loads((tmp_path / "structure.json").read_text())
    del structure["top1"]
    (tmp_path / "structure.json").write_text(json.dumps(structure))
    assert about(load(tmp_path)).top1 is None


def test_names_that_a_library_made_up_are_none():
    model = tiny("vit")
    count = model.config.num_labels
    model.config.id2label = {n: f"LABEL_{n}" for n in range(count)}
    assert known_classes(model).names is None
    model.config.id2label = {n: f"class {n}" for n in range(count)}
    assert known_classes(model).names == tuple(f"class {n}" for n in range(count))


def test_names_of_timm_are_read(vit):
    vit.pretrained_cfg["label_names"] = list(NAMES)
    assert known_classes(vit).names == NAMES


def test_names_of_another_classifier_are_forgotten(vit):
    note(vit, class_names=NAMES)
    vit.reset_classifier(3)
    assert (known_classes(vit).count, known_classes(vit).names) == (3, None)


@pytest.mark.parametrize(
    ("top1", "noted", "said"),
    [
        (0.21, None, "near chance (20.00% for 5 classes)"),
        (0.60, 0.9, "far below the 90.00% that its folder notes"),
        (0.89, 0.9, None),
        (0.60, None, None),
    ],
)
@pytest.mark.parametrize("images", [1000, 10])
def test_an_accuracy_that_speaks_of_a_mistake_is_told(vit, caplog, top1, noted, said, images):
    """Of ten images none is."""
    note(vit, top1=noted)
    warn_of_accuracy(vit, top1, images)
    assert [said in message for message in caplog.messages] == ([] if said is None or images == 10 else [True])


def test_the_image_size_that_was_noted_is_the_one_that_costs_are_counted_at(vit):
    from xpruner.measure.macs import input_size

    note(vit, input=replace(InputSpec.of(vit), size=(32, 64)))
    assert input_size(vit) == (3, 32, 64)


def test_a_module_may_have_something_of_that_name_itself(vit):
    vit.about = lambda: "mine"
    note(vit, top1=0.5)
    assert (vit.about(), about(vit).top1) == ("mine", 0.5)


def test_a_copy_computes_what_the_model_does(vit):
    note(vit, class_names=NAMES)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(vit)(images), vit(images))
