"""Several models' maps on the same images: what each is worth, and how far they agree."""

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny
from torch import nn

from xpruner.errors import UsageError
from xpruner.explain.map_cards import Inside, correct_in_all, map_quality, maps_card, stack_images
from xpruner.maps import grid_of, saliency
from xpruner.maps.metrics.agreement import Agreement, agreement, chance_agreement
from xpruner.maps.metrics.faithfulness import deletion_auc, insertion_auc

LABELS = torch.tensor([0, 3])


class Says(nn.Module):
    """Takes every image for one class."""

    def __init__(self, label: int):
        super().__init__()
        self.logits = nn.Parameter(nn.functional.one_hot(torch.tensor(label), 10).float())

    def forward(self, images):
        return self.logits.expand(len(images), -1)


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32)


def test_a_model_agrees_with_itself(images):
    model = tiny("vit")
    found = map_quality({"dense": model, "pruned": model}, images, LABELS, "gradcam")
    alike = found.agreement["pruned"]
    assert (alike.spearman, alike.ssim, alike.top_overlap) == (pytest.approx(1), pytest.approx(1), 1)
    assert found.insertion["dense"] == found.insertion["pruned"] and found.deletion["dense"] == found.deletion["pruned"]


def test_each_model_is_scored_on_its_own_maps_and_compared_with_the_first(images):
    models = {"dense": tiny("vit"), "pruned": tiny("deit3_layer_scale"), "control": tiny("vit_without_biases")}
    maps = {name: saliency(model, images, "relevance", LABELS) for name, model in models.items()}
    found = map_quality(models, images, LABELS, "relevance", seed=3)
    for name, model in models.items():
        assert found.insertion[name] == pytest.approx(insertion_auc(model, images, maps[name], LABELS).mean().item())
        assert found.deletion[name] == pytest.approx(deletion_auc(model, images, maps[name], LABELS).mean().item())
    assert found.agreement == {name: agreement(maps["dense"], maps[name]) for name in ("pruned", "control")}
    assert (
        found.chance
        == chance_agreement(maps["dense"], (4, 4), seed=3)
        != chance_agreement(maps["dense"], (4, 4), seed=0)
    )
    assert found.seconds > 0 and isinstance(found.chance, Agreement)


@pytest.mark.parametrize(("method", "grid"), [("attnlrp", (32, 32)), ("relevance", (4, 4)), ("occlusion", (4, 4))])
def test_a_method_scores_pixels_or_patches(method, grid):
    assert grid_of(tiny("vit"), method, (32, 32)) == grid


def test_a_model_without_patches_has_pixels():
    assert grid_of(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), "occlusion", (5, 7)) == (5, 7)


def test_images_that_all_models_get_right_are_evenly_spread(finished):
    of_class = (finished.images.labels == 3).nonzero().flatten()
    numbers = correct_in_all(finished, [Says(3), Says(3)], 3)
    assert numbers == of_class[[0, (len(of_class) - 1) // 2, len(of_class) - 1]].tolist()
    assert correct_in_all(finished, [Says(3)], 10**6) == of_class.tolist()
    images, labels = stack_images(finished, numbers)
    assert labels.tolist() == [3, 3, 3]
    assert torch.equal(images, torch.stack([finished.images[number][0] for number in numbers]))


def test_images_can_be_chosen_among_some(finished):
    first, second, *_ = (finished.images.labels == 3).nonzero().flatten().tolist()
    other = int((finished.images.labels == 4).nonzero()[0])
    assert correct_in_all(finished, [Says(3)], 9, {second: [], other: [], first: []}) == [first, second]
    with pytest.raises(UsageError, match=r"No image of .* with a box is right in all 1 models"):
        correct_in_all(finished, [Says(3)], 9, [other])


def test_models_that_are_never_right_together_are_refused(finished):
    with pytest.raises(UsageError, match="is right in all 2 models"):
        correct_in_all(finished, [Says(3), Says(4)], 3)


def test_the_card_of_a_run(finished):
    """Its pruned model is the dense one here, which gets some of the digits right even without training."""
    vars(finished)["pruned"] = finished.dense
    card = maps_card(finished, ["gradcam", "rollout"], 2, seed=1)
    assert (card.images, card.seed, list(card.methods)) == (2, 1, ["gradcam", "rollout"])
    assert list(card.methods["gradcam"].insertion) == ["dense", "pruned"]
    with pytest.raises(UsageError, match="Unknown explanation method 'gradkam'"):
        maps_card(finished, ["rollout", "gradkam"], 2)


def test_maps_lie_inside_a_box_around_everything(finished):
    vars(finished)["pruned"] = finished.dense
    [number] = correct_in_all(finished, [finished.dense], 1)
    card = maps_card(finished, ["relevance"], 1, boxes={number: [[0, 0, 8, 8]]})
    everything = Inside(1.0, pytest.approx(1))
    assert card.methods["relevance"].inside == {"dense": everything, "pruned": everything}
    assert (card.images, card.covered) == (1, 1.0)


def test_images_of_which_no_box_is_seen_are_left_out(finished, caplog):
    """Of a digit's 8 x 8 pixels those from 2 to 6 each way are seen."""
    vars(finished)["pruned"] = finished.dense
    first, second = correct_in_all(finished, [finished.dense], 2)
    finished.images.spec = replace(finished.images.spec, crop_pct=0.5)
    boxes = {first: [[2, 2, 4, 6]], second: [[0, 0, 1, 8]]}
    card = maps_card(finished, ["gradcam"], 2, boxes=boxes)
    assert (card.images, card.covered) == (1, pytest.approx(0.5, abs=0.05))
    assert f"The boxes of 1 images, such as {second}, lie outside" in caplog.text
    with pytest.raises(UsageError, match=r"^No box lies in what the models see"):
        maps_card(finished, ["gradcam"], 2, boxes={second: boxes[second]})
