"""Pairs of maps: which images, how similar, and the chance level of that."""

import pytest
import torch

from xpruner.errors import UsageError
from xpruner.explain.map_pair import MapSimilarity, map_pair
from xpruner.report.pairs import Maps, Pair, check_numbers, choose, explained
from xpruner.run.finished import FinishedRun, open_run

NAMES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def run(finished_folder) -> FinishedRun:
    return open_run(finished_folder)


@pytest.fixture(scope="module")
def predictions(run) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """True labels, those of the next image, and zeros."""
    labels = torch.tensor([label for _, label in run.images])
    return labels, labels.roll(-1), torch.zeros_like(labels)


@pytest.mark.parametrize(
    ("right", "lost", "chosen"), [(range(10, 21), [1, 2, 3, 4], [10, 15, 20, 1, 2, 3]), ([5], [], [5]), ([], [], [])]
)
def test_images_to_explain(right, lost, chosen):
    assert choose(list(right), lost) == chosen


def test_a_pair_is_of_the_true_class_and_names_what_both_models_predict(run, predictions):
    [first, second] = explained(run, [4, 40], predictions, NAMES, "gradcam").pairs
    for pair, number in ((first, 4), (second, 40)):
        labels = [NAMES[int(classes[number])] for classes in predictions]
        assert (pair.number, pair.truth, pair.dense, pair.pruned) == (number, *labels)
        assert len({pair.picture, pair.dense_map, pair.pruned_map}) == 3
        maps = map_pair(run.dense, run.pruned, run.images[number][0], "gradcam", int(predictions[0][number]))
        assert (pair.similarity, pair.chance) == (maps.similarity, maps.chance)


def test_means_are_over_the_images():
    pairs = [Pair(0, "", "", "", "", "", "", MapSimilarity(*of), MapSimilarity(*chance))
             for of, chance in (((0.5, 0.25), (0.0, 0.125)), ((1.0, 0.75), (0.25, 0.125)))]  # fmt: skip
    maps = Maps("rollout", pairs)
    assert (maps.similarity, maps.chance) == (MapSimilarity(0.75, 0.5), MapSimilarity(0.125, 0.125))
    assert not maps.of_class and Maps("gradcam", pairs).of_class


def test_without_images_there_is_a_reason(run, predictions):
    assert explained(run, [], predictions, NAMES, "gradcam") == Maps(
        "gradcam", [], "No image was right before pruning."
    )


@pytest.mark.parametrize("number", [-1, 60])
def test_a_number_that_no_image_has_is_refused(run, number):
    check_numbers(run, [0, 59])
    with pytest.raises(UsageError, match=rf"^The run has no image {number}; choose from 0 to 59\.$"):
        check_numbers(run, [3, number])
