"""Several models' maps on the same images: what each is worth, and how far they agree."""

import pytest
import torch
from tiny_models import tiny
from torch import nn

from xpruner.errors import UsageError
from xpruner.explain.agreement import Agreement, agreement, random_floor
from xpruner.explain.faithfulness import deletion_auc, insertion_auc
from xpruner.explain.maps import grid_of, saliency
from xpruner.explain.trust import map_trust, maps_card, right_everywhere

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
    found = map_trust({"dense": model, "pruned": model}, images, LABELS, "gradcam")
    alike = found.agreement["pruned"]
    assert (alike.spearman, alike.ssim, alike.top_overlap) == (pytest.approx(1), pytest.approx(1), 1)
    assert found.insertion["dense"] == found.insertion["pruned"] and found.deletion["dense"] == found.deletion["pruned"]


def test_each_model_is_scored_on_its_own_maps_and_compared_with_the_first(images):
    models = {"dense": tiny("vit"), "pruned": tiny("deit3_layer_scale"), "control": tiny("vit_without_biases")}
    maps = {name: saliency(model, images, "relevance", LABELS) for name, model in models.items()}
    found = map_trust(models, images, LABELS, "relevance", seed=3)
    for name, model in models.items():
        assert found.insertion[name] == pytest.approx(insertion_auc(model, images, maps[name], LABELS).mean().item())
        assert found.deletion[name] == pytest.approx(deletion_auc(model, images, maps[name], LABELS).mean().item())
    assert found.agreement == {name: agreement(maps["dense"], maps[name]) for name in ("pruned", "control")}
    assert found.floor == random_floor(maps["dense"], (4, 4), seed=3) != random_floor(maps["dense"], (4, 4), seed=0)
    assert found.seconds > 0 and isinstance(found.floor, Agreement)


@pytest.mark.parametrize(("method", "grid"), [("attnlrp", (32, 32)), ("relevance", (4, 4)), ("occlusion", (4, 4))])
def test_a_method_scores_pixels_or_patches(method, grid):
    assert grid_of(tiny("vit"), method, (32, 32)) == grid


def test_a_model_without_patches_has_pixels():
    assert grid_of(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), "occlusion", (5, 7)) == (5, 7)


def test_images_that_all_models_get_right_are_evenly_spread(finished):
    of_class = (finished.images.labels == 3).nonzero().flatten()
    images, labels = right_everywhere(finished, [Says(3), Says(3)], 3)
    expected = of_class[[0, (len(of_class) - 1) // 2, len(of_class) - 1]]
    assert labels.tolist() == [3, 3, 3]
    assert torch.equal(images, torch.stack([finished.images[number][0] for number in expected.tolist()]))
    assert len(right_everywhere(finished, [Says(3)], 10**6)[0]) == len(of_class)


def test_models_that_are_never_right_together_are_refused(finished):
    with pytest.raises(UsageError, match="is right in all 2 models"):
        right_everywhere(finished, [Says(3), Says(4)], 3)


def test_the_card_of_a_run(finished):
    """Its pruned model is the dense one here, which gets some of the digits right even without training."""
    vars(finished)["pruned"] = finished.dense
    card = maps_card(finished, ["gradcam", "rollout"], 2, seed=1)
    assert (card.images, card.seed, list(card.methods)) == (2, 1, ["gradcam", "rollout"])
    assert list(card.methods["gradcam"].insertion) == ["dense", "pruned"]
    with pytest.raises(UsageError, match="Unknown explanation method 'gradkam'"):
        maps_card(finished, ["rollout", "gradkam"], 2)
