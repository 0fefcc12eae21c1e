import json
from dataclasses import asdict

import pytest
import torch

from xpruner.errors import UsageError
from xpruner.explain.audit import Confusion, Drop, Proportion, audit, audit_run

NAMES = ["cat", "dog", "owl", "yak"]
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
DENSE = torch.tensor([0, 0, 0, 1, 1, 1, 2, 0])
PRUNED = torch.tensor([0, 1, 2, 0, 1, 1, 0, 0])


def test_each_class_has_its_accuracies_and_the_images_that_changed():
    cat, dog, owl = audit(DENSE, PRUNED, LABELS, NAMES).classes
    assert (cat.name, cat.images, cat.dense.value, cat.pruned.value) == ("cat", 4, 0.75, 0.5)
    assert (cat.lost, cat.gained, cat.drop) == ([1, 2], [3], 25.0)
    assert (dog.dense.value, dog.pruned.value, dog.lost, dog.gained, dog.drop) == (1.0, 1.0, [], [], 0.0)
    assert (owl.lost, owl.drop) == ([6], 50.0)


def test_the_class_that_lost_most_is_named_and_one_without_images_left_out():
    audited = audit(DENSE, PRUNED, LABELS, NAMES)
    assert audited.worst.name == "owl"
    assert [c.name for c in audited.classes] == ["cat", "dog", "owl"] and audited.without_images == ["yak"]


def test_confusions_that_became_more_come_largest_first():
    pruned = torch.tensor([0, 2, 2, 0, 1, 1, 0, 0])
    assert audit(DENSE, pruned, LABELS, NAMES).confusions == [
        Confusion("cat", "owl", 0, 2), Confusion("owl", "cat", 1, 2),
    ]  # fmt: skip


def test_the_interval_is_wilsons():
    """For 1 of 4 and z = 1.96: centre (p + z2/2n) / (1 + z2/n) = 0.3724, half width 0.3270."""
    share = Proportion.of(1, 4)
    assert (share.low, share.high) == pytest.approx((0.0456, 0.6994), abs=1e-4)


def test_three_losses_and_one_gain_are_no_proof():
    """Two-sided: 2 (4 + 1) / 2^4."""
    labels = torch.zeros(4, dtype=torch.long)
    dense, pruned = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 1, 0])
    assert audit(dense, pruned, labels, NAMES).classes[0].p_value == pytest.approx(10 / 16)
    assert audit(dense, dense, labels, NAMES).classes[0].p_value == 1


def test_answers_that_do_not_match_the_images_are_refused():
    with pytest.raises(UsageError, match="there are 7 and 8 for 8 images"):
        audit(DENSE[1:], PRUNED, LABELS, NAMES)


def test_all_classes_together_are_a_row_of_their_own():
    overall = audit(DENSE, PRUNED, LABELS, NAMES).overall
    assert (overall.images, overall.dense.value, overall.pruned.value) == (8, 0.75, 0.5)
    assert (overall.lost, overall.gained, overall.drop) == ([1, 2, 6], [3], 25.0)
    assert overall.p_value == pytest.approx(10 / 16)


def test_what_is_derived_is_in_the_json_too():
    found = json.loads(json.dumps(asdict(audit(DENSE, PRUNED, LABELS, NAMES)), allow_nan=False))
    assert [row["drop"] for row in found["classes"]] == [25.0, 0.0, 50.0]
    assert (found["worst"]["name"], found["overall"]["drop"], found["guard"]) == ("owl", 25.0, None)


def test_the_interval_of_a_drop_is_agrestis_and_mins():
    """3 lost and 1 gained of 8: middle 2 / 10, variance (5 - 4 / 10) / 100."""
    drop = Drop.of(3, 1, 8)
    half = 1.959964 * 4.6**0.5 / 10
    assert (drop.value, drop.low, drop.high) == pytest.approx((25, 20 - 100 * half, 20 + 100 * half))


def test_the_audit_of_a_run_asks_both_models(finished):
    found = audit_run(finished)
    assert found.overall.images == 60 and found.class_names == [str(digit) for digit in range(10)]
    assert found.guard is None and sum(row.images for row in found.classes) == 60
