"""Which class is meant by what a user writes."""

import pytest

from xpruner.errors import UsageError
from xpruner.explain.classes import find_class, find_classes

FISH = ["tench, Tinca tinca", "goldfish, Carassius auratus", "hen"]


def test_a_class_is_found_by_name_or_number():
    assert find_class("dog", ["cat", "dog"]) == 1
    assert find_class("0", ["cat", "dog"]) == 0
    assert find_class("0", ["9", "0"]) == 1
    with pytest.raises(UsageError, match="Unknown class 'dgo'; did you mean 'dog'"):
        find_class("dgo", ["cat", "dog"])
    with pytest.raises(UsageError, match="Unknown class '2'"):
        find_class("2", ["cat", "dog"])


def test_a_number_is_written_in_plain_digits():
    with pytest.raises(UsageError, match="Unknown class '²'"):
        find_class("²", ["cat", "dog", "owl"])


def test_of_classes_that_share_a_name_the_numbers_are_asked_for():
    names = ["crane", "dog", "crane"]
    with pytest.raises(UsageError) as caught:
        find_class("crane", names)
    assert str(caught.value) == "2 classes are called 'crane', those of numbers 0 and 2; give a number."
    assert [find_class(name, names) for name in ("0", "2", "crane (2)")] == [0, 2, 2]


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        (["hen", "tench, Tinca tinca"], [2, 0]),
        (["tench", "Tinca tinca", "hen"], [0, 2]),
        (["hen", "goldfish", "Carassius auratus", "0"], [2, 1, 0]),
        (["1", "2"], [1, 2]),
    ],
)
def test_names_that_were_cut_at_their_commas_are_put_together(written, labels):
    assert find_classes(written, FISH) == labels


def test_names_that_are_known_as_they_are_are_never_put_together():
    assert find_classes(["a", "b"], ["a", "b", "a, b"]) == [0, 1]


@pytest.mark.parametrize(
    ("written", "names", "reason"),
    [
        (["tench", "Tinca", "hen"], FISH, "Unknown class 'tench'; did you mean 'hen'"),
        (["a", "b", "c", "d"], ["a", "b", "a, b", "c, d"], "there are several ways to put them together"),
    ],
)
def test_names_that_cannot_be_put_together_are_asked_for_in_brackets(written, names, reason):
    with pytest.raises(UsageError) as caught:
        find_classes(written, names)
    assert str(caught.value).startswith(f"The classes {', '.join(written)} cannot be split at their commas ({reason})")
    assert "as a list in brackets, such as '[\"" in str(caught.value)


@pytest.mark.parametrize("names", [FISH, ["cat", "dog"]])
def test_one_unknown_name_is_refused_as_it_is(names):
    with pytest.raises(UsageError, match=r"^Unknown class 'owl'; "):
        find_classes(["owl"], names)
