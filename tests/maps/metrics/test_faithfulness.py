import math
from types import SimpleNamespace

import pytest
import torch
from tiny_models import footprint, tiny
from torch import nn

from xpruner.errors import UsageError, XPrunerError
from xpruner.maps.metrics.faithfulness import (
    box_masks,
    deletion_auc,
    deletion_curve,
    energy_inside,
    insertion_auc,
    insertion_curve,
    pointing_hits,
)


class Linear(nn.Module):
    """Two classes, the first with a logit of the weighted sum of the pixels in the first channel, the second with 0.

    It writes down how it was called, and returns an object with logits as models of transformers do.
    """

    def __init__(self, *weights):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weights))
        self.calls = []

    def forward(self, images):
        self.calls.append((len(images), self.training, torch.is_grad_enabled()))
        logit = images[:, 0].flatten(1) @ self.weight
        return SimpleNamespace(logits=torch.stack([logit, torch.zeros_like(logit)], 1))


def row(*pixels):
    """Returns the map of one row; with one more dimension in front it is an image of one channel."""
    return torch.tensor([[pixels]], dtype=torch.float)


def test_deletion_of_two_pixels_by_hand():
    """The logit ln 6 of the whole image is ln 3 of the first pixel and ln 2 of the second."""
    model, images = Linear(math.log(3), math.log(2)), row(1, 1)[None].expand(2, 3, 1, 2)
    maps = torch.cat([row(0.9, 0.1), row(0.1, 0.9)])
    curve = deletion_curve(model, images, maps, step=1)
    assert curve.shares.tolist() == [0, 0.5, 1]
    torch.testing.assert_close(curve.probabilities, torch.tensor([[6 / 7, 2 / 3, 1 / 2], [6 / 7, 3 / 4, 1 / 2]]))
    by_hand = torch.tensor([(6 / 7 + 1 / 2) / 4 + 2 / 3 / 2, (6 / 7 + 1 / 2) / 4 + 3 / 4 / 2])
    torch.testing.assert_close(deletion_auc(model, images, maps, step=1), by_hand)


def test_the_last_step_takes_what_is_left():
    curve = deletion_curve(Linear(1.0, 0.0, 0.0), row(1, 0, 0)[None], row(0, 2, 1), step=2)
    torch.testing.assert_close(curve.shares, torch.tensor([0, 2 / 3, 1]))
    p = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(curve.probabilities, torch.tensor([[p, p, 0.5]]))
    torch.testing.assert_close(curve.area, torch.tensor([2 / 3 * p + (p + 0.5) / 6]))


def test_a_step_beyond_the_image_is_one_step():
    curve = deletion_curve(Linear(0.0, 0.0), row(1, 1)[None], row(1, 2))
    assert curve.shares.tolist() == [0, 1]


def test_pixels_of_equal_saliency_go_in_reading_order():
    saliency = [0, 7] * 40  # 40 pixels of 7 go first; the one that counts is the tenth of them
    model = Linear(*[math.log(3) if pixel == 19 else 0.0 for pixel in range(80)])
    curve = deletion_curve(model, row(*[1] * 80)[None], row(*saliency), step=1)
    assert curve.probabilities[0].tolist() == pytest.approx([0.75] * 10 + [0.5] * 71)


def test_the_target_is_what_the_model_predicts_by_default():
    model, image, map_ = Linear(1.0), row(-math.log(3))[None], row(0)  # the second class, with 0.75
    assert deletion_curve(model, image, map_).probabilities[0].tolist() == pytest.approx([0.75, 0.5])
    asked = deletion_curve(model, image, map_, torch.tensor([0]))
    assert asked.probabilities[0].tolist() == pytest.approx([0.25, 0.5])


def test_insertion_of_one_bright_pixel_by_hand():
    """The blur of a single pixel has at its own place the middle weight of the kernel."""
    weights, image = torch.zeros(11, 11), torch.zeros(1, 3, 11, 11)
    weights[5, 5], image[..., 5, 5] = math.log(3), 1
    model = Linear(*weights.flatten().tolist())
    middle = 1 / sum(math.exp(-(k**2) / (2 * 5**2)) for k in range(-5, 6)) ** 2
    blurred = 1 / (1 + 3**-middle)
    first = insertion_auc(model, image, weights[None], torch.tensor([0]), step=1)
    last = insertion_auc(model, image, -weights[None], torch.tensor([0]), step=1)
    assert first.item() == pytest.approx(((blurred + 0.75) / 2 + 120 * 0.75) / 121)
    assert last.item() == pytest.approx((120 * blurred + (blurred + 0.75) / 2) / 121)


def test_an_even_image_has_nothing_to_insert():
    image = torch.full((1, 3, 6, 6), 2.0)
    curve = insertion_curve(Linear(*[0.01] * 36), image, torch.rand(1, 6, 6), step=5)
    torch.testing.assert_close(curve.probabilities, torch.full((1, 9), 1 / (1 + math.exp(-0.72))))


def test_a_bounded_number_of_images_passes_through_the_model_without_gradients_and_in_eval_mode():
    model = Linear(0.3, -0.2, 0.5, 0.1).train()
    images, maps = torch.randn(5, 3, 1, 4), torch.randn(5, 1, 4)
    together = deletion_auc(model, images, maps, step=1, batch_size=3)
    assert {size for size, _, _ in model.calls} == {3, 2, 1}  # 5 whole images, then 25 points
    assert {call[1:] for call in model.calls} == {(False, False)}
    assert model.training and not together.requires_grad
    alone = torch.cat([deletion_auc(model, images[i : i + 1], maps[i : i + 1], step=1) for i in range(5)])
    torch.testing.assert_close(together, alone)


def test_the_curves_of_a_vision_transformer_end_at_the_whole_image_and_at_nothing():
    model, images, maps = tiny("vit").train(), torch.randn(2, 3, 32, 32), torch.randn(2, 32, 32)
    before = footprint(model)
    deleted = deletion_curve(model, images, maps, step=256)
    inserted = insertion_curve(model, images, maps, step=256)
    assert footprint(model) == before
    with torch.no_grad():
        whole, nothing = (model.eval()(x).softmax(-1) for x in (images, torch.zeros_like(images)))
    targets = whole.argmax(-1, keepdim=True)
    assert deleted.probabilities.shape == inserted.probabilities.shape == (2, 5)
    torch.testing.assert_close(deleted.probabilities[:, 0], whole.gather(1, targets)[:, 0])
    torch.testing.assert_close(deleted.probabilities[:, -1], nothing.gather(1, targets)[:, 0])
    torch.testing.assert_close(inserted.probabilities[:, -1], whole.gather(1, targets)[:, 0])


NO_PIXELS, NOT_FINITE = torch.zeros(0, 6, 6), torch.zeros(2, 6, 6)
NOT_FINITE[1, 2, 3] = math.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(maps=torch.zeros(2, 6, 5)), r"\(2, 6, 5\) do not fit images of shape \(2, 3, 6, 6\); give one map"),
        (dict(images=torch.zeros(2, 6, 6)), r"do not fit images of shape \(2, 6, 6\)"),
        (dict(maps=NO_PIXELS), r"Maps of shape \(0, 6, 6\) cannot be scored; give \(batch, height, width\)"),
        (dict(maps=torch.zeros(6, 6)), r"Maps of shape \(6, 6\) cannot be scored"),
        (dict(maps=NOT_FINITE), "The map of image 1 holds NaN or infinite values; leave that image out"),
        (dict(targets=torch.tensor([0])), r"Targets of shape \(1,\) do not fit 2 images; give one class each"),
        (dict(targets=torch.tensor([1, 2])), "no class 2; the model's classes are 0 to 1"),
        (dict(targets=torch.tensor([-1, 0])), "no class -1; "),
        (dict(step=0), "step 0 is too small; choose 1 or more"),
        (dict(batch_size=-1), "batch_size -1 is too small"),
        (
            dict(images=torch.zeros(2, 3, 5, 6), maps=torch.zeros(2, 5, 6)),
            "5 x 6 pixels are too small for a blur .* give 6 pixels a side or more",
        ),
    ],
)
def test_requests_that_cannot_be_met(change, message):
    request = dict(model=Linear(*[0.0] * 36), images=torch.zeros(2, 3, 6, 6), maps=torch.zeros(2, 6, 6))
    with pytest.raises(UsageError, match=message):
        insertion_auc(**request | change)


def test_a_model_that_returns_nan_is_no_silent_score():
    with pytest.raises(XPrunerError, match="returns NaN for image 1"):
        deletion_auc(Linear(1.0), torch.tensor([0.0, math.nan]).view(2, 1, 1, 1), torch.zeros(2, 1, 1))


def dots(*places, size=(40, 50)):
    """Returns for each (row, column) a picture that is 1 there and 0 elsewhere."""
    pictures = torch.zeros(len(places), *size)
    for picture, place in zip(pictures, places, strict=True):
        picture[place] = 1
    return pictures


def test_a_disc_of_15_pixels_around_the_maximum_touches_the_mask():
    masks = dots((20, 5), (20, 20), (20, 21), (35, 5), (36, 5), (32, 14), (32, 15), (8, 14))
    maps = dots((20, 5)).expand(8, 40, 50)  # at distances 0, 15, 16, 15, 16, 15 = |(12, 9)|, 15.6, 15
    assert pointing_hits(maps, masks).tolist() == [True, True, False, True, False, True, False, True]


def test_the_radius_and_the_first_of_several_maxima_decide():
    maps = dots((3, 3)) + dots((30, 30))
    assert pointing_hits(maps, dots((3, 4)), radius=1).item()
    assert not pointing_hits(maps, dots((3, 4)), radius=0.5).item()
    assert not pointing_hits(maps, dots((30, 30))).item()


def test_only_positive_saliency_counts_and_a_map_without_any_has_none_inside():
    maps = torch.tensor([[[1.0, 3.0], [-5.0, 4.0]], [[-1.0, 0.0], [0.0, -2.0]]])
    masks = torch.tensor([[[True, False], [True, True]]]).expand(2, 2, 2)
    assert energy_inside(maps, masks).tolist() == [5 / 8, 0]


def test_masks_hold_every_pixel_that_a_box_touches():
    masks = box_masks(torch.tensor([[1, 0, 3, 2], [0.5, 1.5, 1.2, 2.1]]), (3, 4))
    assert masks.int().tolist() == [
        [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]],
    ]


def test_an_image_may_have_several_boxes():
    masks = box_masks([torch.tensor([[0, 0, 1, 1], [3, 2, 4, 3]]), torch.tensor([0, 0, 4, 3])], (3, 4))
    assert masks.int().tolist() == [[[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], [[1] * 4] * 3]


@pytest.mark.parametrize("score", [pointing_hits, energy_inside])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.ones(2, 4, 4), torch.ones(2, 4, 3), r"\(2, 4, 3\) do not fit maps of shape \(2, 4, 4\); give one mask"),
        (
            torch.ones(2, 4, 4),
            dots((0, 0), (9, 9), size=(10, 10))[:, :4, :4],
            "mask of image 1 has no pixel; leave out",
        ),
        (NO_PIXELS, NO_PIXELS, "cannot be scored"),
        (NOT_FINITE, torch.ones(2, 6, 6), "The map of image 1 holds NaN"),
    ],
)
def test_masks_that_cannot_be_used(score, maps, masks, message):
    with pytest.raises(UsageError, match=message):
        score(maps, masks)


@pytest.mark.parametrize("radius", [-1, math.nan])
def test_a_disc_needs_a_radius(radius):
    with pytest.raises(UsageError, match=f"radius {radius} has no pixel; choose 0 or more"):
        pointing_hits(torch.ones(1, 4, 4), torch.ones(1, 4, 4), radius=radius)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 5, 3]], r"box \(0, 0, 5, 3\) of image 0 does not lie in 4 x 3 pixels; give x0 < x1"),
        ([[0, 0, 4, 3], [-1, 0, 4, 3]], r"box \(-1, 0, 4, 3\) of image 1 "),
        ([[0, 0, 4, 4]], r"box \(0, 0, 4, 4\)"),
        ([[2, 0, 2, 3]], r"box \(2, 0, 2, 3\)"),
        ([[0, math.nan, 2, 3]], r"box \(0, nan, 2, 3\)"),
        ([[0, 0, 2]], r"boxes of image 0 have the shape \(3,\); give \(boxes, 4\)"),
        ([[]], r"shape \(0,\); give \(boxes, 4\), at least one"),
        ([], "There are no boxes; give those of one image at least"),
    ],
)
def test_boxes_that_cannot_be_drawn(boxes, message):
    with pytest.raises(UsageError, match=message):
        box_masks([torch.tensor(box) for box in boxes], (3, 4))
