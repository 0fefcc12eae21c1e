"""Which classes and images changed, on predictions that one can count."""

import pytest
import torch

from xpruner.explain.audit import audit
from xpruner.report.changes import Changes, gained_first, lost_first

LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
OTHERS = torch.tensor([0, 0, 1, 0, 0, 1])


def test_lost_images_come_from_each_class_in_turn_the_class_that_lost_most_first():
    found = audit(LABELS, OTHERS, LABELS, ["cat", "dog"])
    assert lost_first(found) == [3, 2, 4] and gained_first(found) == []


def test_gained_images_come_from_each_class_in_turn_the_class_that_gained_most_first():
    found = audit(OTHERS, LABELS, LABELS, ["cat", "dog"])
    assert gained_first(found) == [3, 2, 4] and lost_first(found) == []


def test_classes_are_ranked_by_what_they_lost():
    """Of three images each the cat lost one and the dog two: 33 and 67 points, together 50."""
    found = Changes(audit(LABELS, OTHERS, LABELS, ["cat", "dog"]), [], [])
    assert [c.name for c, _ in found.classes] == ["dog", "cat"]
    assert [drop.value for _, drop in found.classes] == pytest.approx([200 / 3, 100 / 3])
    assert found.drop.value == 50.0
    assert found.drop.low < 50 < found.drop.high
