"""Classes of data and model: mapped by name, refused by name, and never shifted."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xpruner.data.class_names import Classes, likely_cause, mapping, match
from xpruner.data.class_order import class_order
from xpruner.data.folders import Found
from xpruner.errors import UsageError


def source(labels, names=None, found=Found()):  # noqa: B008 - it is frozen
    return SimpleNamespace(labels=np.array(labels), class_names=names, found=found)


def test_labels_follow_the_model_by_name(caplog):
    train, test = source([0, 1, 2], ["1", "2", "10"]), source([2, 2], ["1", "2", "10"])
    train.class_names = test.class_names = ["class_1", "class_2", "class_10"]
    with caplog.at_level("INFO", "xpruner"):
        names = match([train, test], Classes(3, ("class_1", "class_10", "class_2")), "d")
    assert names == ["class_1", "class_10", "class_2"] == train.class_names
    assert train.labels.tolist() == [0, 2, 1]
    assert test.labels.tolist() == [1, 1]
    assert caplog.messages == [
        "The classes of d are in another order than the model's; their labels are mapped by name."
    ]


@given(st.permutations([f"class_{n}" for n in range(1, 13)]), st.permutations(range(12)))
def test_any_order_is_mapped_to_any_other(names, order):
    wanted = [names[n] for n in order]
    found = mapping(names, wanted, "d")
    assert [wanted[label] for label in found] == names


def test_capitals_spaces_and_underscores_make_no_other_class():
    assert mapping(["golden_retriever", "Tabby Cat"], ["tabby-cat", "Golden Retriever"], "d") == [1, 0]


def test_names_that_differ_in_capitals_alone_are_told_apart():
    assert mapping(["Crane", "crane"], ["crane", "Crane"], "d") == [1, 0]


def test_repeated_names_are_taken_in_order_or_refused():
    assert mapping(["crane", "hen", "crane"], ["crane", "hen", "crane"], "d") == [0, 1, 2]
    with pytest.raises(UsageError, match="some names are repeated"):
        mapping(["crane", "crane", "hen"], ["crane", "hen", "crane"], "d")


def test_other_names_are_refused_with_the_first_that_differ():
    with pytest.raises(UsageError) as told:
        match([source([0, 1], ["cat", "cow"])], Classes(3, ("cat", "dog", "hen")), "pets")
    assert str(told.value) == (
        "The classes of 'pets' are not those of the model: the data lack 'dog', 'hen' and the model lacks 'cow'; give "
        "images of the model's classes in folders of their names, or another model."
    )


@pytest.mark.parametrize("names", [["n01440764", "n01443537"], ["0", "1"]])
def test_codes_and_numbers_say_nothing_of_words(names):
    """Folders of ImageNet are named by WordNet's codes, and its models' classes by words."""
    train = source([0, 1], names)
    assert match([train], Classes(2, ("tench", "goldfish")), "d") == names
    assert train.labels.tolist() == [0, 1]


def test_labels_without_names_get_those_of_the_model():
    assert match([source([0, 1, 2])], Classes(3, ("a", "b", "c")), "d") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (source([1, 2, 3]), "no image has label 0, so the labels may start at 1"),
        (source([0, 1], ["a", "b"], Found(empty={"c": {".heic": 4}})), "no image is read of 'c': add some, or"),
    ],
)
def test_another_number_of_classes_is_refused_with_its_likely_cause(data, cause):
    with pytest.raises(UsageError, match=f"The model has 3 classes but the data have .*{cause}") as told:
        match([data], Classes(3), "d")
    assert "num_classes" not in str(told.value)


def test_no_cause_is_made_up():
    assert likely_cause(source([0, 1], ["a", "b"])) == ""


def test_folders_are_ordered_as_asked(tmp_path):
    names = ["class_10", "class_2", "class_1"]
    assert class_order(names) == ["class_1", "class_2", "class_10"]
    assert class_order(names, "alphabetical") == ["class_1", "class_10", "class_2"]
    (tmp_path / "names.txt").write_text("class_2\nclass_10\n\nclass_1\n")
    assert class_order(names, str(tmp_path / "names.txt")) == ["class_2", "class_10", "class_1"]


@pytest.mark.parametrize("text", ["class_1\n", "class_1\nclass_2\nclass_10\nclass_3", "class_1\nclass_1\nclass_2"])
def test_a_file_of_other_names_is_refused(text, tmp_path):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(UsageError, match="are not those of the data, such as 'class_"):
        class_order(["class_10", "class_2", "class_1"], str(tmp_path / "names.txt"))


def test_an_order_that_is_none_is_refused():
    with pytest.raises(UsageError, match=r"data\.class_order is 'random'; it must be natural, alphabetical"):
        class_order(["a"], "random")
