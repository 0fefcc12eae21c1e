"""Who is held out, class by class."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xpruner.data.by_class import absent, last_of_class_last, place_in_class, size_to_hold_out, stratified_order


def counts(labels: np.ndarray, numbers: np.ndarray, classes: int) -> list[int]:
    return np.bincount(labels[numbers], minlength=classes).tolist()


def test_images_are_numbered_within_their_class():
    assert place_in_class(torch.tensor([2, 0, 2, 2, 0])).tolist() == [0, 0, 1, 2, 1]


def test_no_class_gives_its_last_image_first():
    labels = np.array([1, 0, 0, 2, 0])
    assert last_of_class_last(labels).tolist() == [1, 2, 0, 3, 4]


def test_classes_that_no_label_names_are_absent():
    assert absent(torch.tensor([3, 1, 1]), 5) == [0, 2, 4]


def test_of_equal_classes_the_same_number_is_held_out():
    labels = np.arange(100) % 4
    assert counts(labels, stratified_order(labels, 0)[: size_to_hold_out(labels, 0.2)], 4) == [5, 5, 5, 5]


def test_of_a_long_tail_each_class_with_two_images_lies_on_both_sides():
    """Of 151 images 30 are held out: 20 % of the large classes, one of each small one, and none of what is alone."""
    labels = np.repeat(np.arange(10), [60, 40, 25, 12, 6, 3, 2, 1, 1, 1])
    held = stratified_order(labels, 0)[: size_to_hold_out(labels, 0.2)]
    assert len(held) == 30
    assert counts(labels, held, 10) == [12, 8, 5, 2, 1, 1, 1, 0, 0, 0]


def test_a_share_is_never_a_whole_class_nor_nothing():
    labels = np.repeat(np.arange(3), [2, 2, 50])
    assert size_to_hold_out(labels, 0.001) == 3 and size_to_hold_out(labels, 0.999) == 51
    assert size_to_hold_out(np.arange(5), 0.5) == 0


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0, 3))
def test_every_class_keeps_an_image_and_gives_one_that_has_two(labels, share, seed):
    labels = np.array(labels)
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    held = stratified_order(labels, seed)[: size_to_hold_out(labels, share)]
    for whole, out in zip(counts(labels, order, 6), counts(labels, held, 6), strict=True):
        assert (out == 0) if whole < 2 else (1 <= out < whole)
