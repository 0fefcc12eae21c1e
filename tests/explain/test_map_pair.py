"""Two models' maps of one image, and the chance level of their similarity."""

import pytest
import torch

from xpruner.explain.map_pair import ANY_CLASS, MapSimilarity, map_pair
from xpruner.maps.metrics.agreement import spearman, top_overlap

NAMES = [str(digit) for digit in range(10)]


def test_both_maps_explain_what_the_dense_model_predicts_by_default(finished):
    image = finished.images[0][0]
    label = int(finished.dense(image[None]).argmax())
    pair = map_pair(finished.dense, finished.pruned, image, "gradcam")
    asked = map_pair(finished.dense, finished.pruned, image, "gradcam", label)
    other = map_pair(finished.dense, finished.pruned, image, "gradcam", (label + 1) % 10)
    assert pair.label == asked.label == label
    assert torch.equal(pair.pruned, asked.pruned) and not torch.equal(pair.pruned, other.pruned)
    assert pair.dense.shape == (16, 16)


def test_the_maps_of_one_model_agree(finished):
    pair = map_pair(finished.dense, finished.dense, finished.images[0][0], "relevance")
    assert pair.similarity == MapSimilarity(pytest.approx(1), 1)


def test_similarity_is_the_mean_over_pairs_of_maps():
    """A map and itself, 1 and 1; and its negative, -1, with no top pixel in common."""
    one = torch.arange(100.0).reshape(1, 10, 10)
    assert MapSimilarity.of(torch.cat([one, one]), torch.cat([one, -one])) == MapSimilarity(
        pytest.approx(0, abs=1e-12), 0.5
    )


def test_similarity_is_of_the_two_maps_and_its_chance_level_of_shuffled_ones(finished):
    """The mean over shuffles is near 0; two sets of a fifth of the pixels share a ninth of their union."""
    pairs = [map_pair(finished.dense, finished.pruned, finished.images[n][0], "relevance") for n in range(0, 60, 10)]
    for pair in pairs:
        maps = pair.dense[None], pair.pruned[None]
        assert pair.similarity == MapSimilarity(spearman(*maps).item(), top_overlap(*maps).item())
    levels = [pair.chance for pair in pairs]
    assert abs(sum(level.spearman for level in levels) / len(levels)) < 0.15
    assert sum(level.top_overlap for level in levels) / len(levels) == pytest.approx(1 / 9, abs=0.08)


def test_a_pair_names_the_class_that_it_explains_if_there_is_one(finished):
    image = finished.images[0][0]
    of_class, of_any = (
        map_pair(finished.dense, finished.pruned, image, method, 3) for method in ("gradcam", "rollout")
    )
    assert (of_class.explained(NAMES), of_any.explained(NAMES)) == ("3", ANY_CLASS)
