import pytest
import tiny_models
import tiny_transformers
import torch
from tiny_training import tiny_model
from torch import nn

from xpruner.config import FinetuneConfig
from xpruner.errors import UsageError
from xpruner.plan import Plan
from xpruner.training.devices import accelerator
from xpruner.training.distill import finetune_loss
from xpruner.training.features import blocks_of, feature_loss, handed_on, kept_streams
from xpruner.training.job import Job

TOKENS = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])  # mean (2, 0), squared distances from it 1 + 1


def test_features_that_agree_miss_nothing_and_their_mean_misses_all():
    assert feature_loss(TOKENS, TOKENS).item() == 0
    assert feature_loss(torch.tensor([[[2.0, 0.0], [2.0, 0.0]]]), TOKENS).item() == pytest.approx(1)


def test_features_miss_a_share_of_the_variance():
    assert feature_loss(torch.tensor([[[1.0, 1.0], [3.0, 0.0]]]), TOKENS).item() == pytest.approx(1 / 2)


def test_grids_of_tokens_are_flattened():
    assert feature_loss(TOKENS.reshape(1, 1, 2, 2) + 1, TOKENS).item() == pytest.approx(4 / 2)


def test_other_tokens_are_compared_by_their_means():
    teacher = torch.cat([TOKENS, TOKENS + 2])  # means (2, 0) and (4, 2): 1 + 1 each from (3, 1)
    assert feature_loss(torch.tensor([[[2.0, 0.0]], [[4.0, 0.0]]]), teacher).item() == pytest.approx(4 / 4)


def test_no_gradient_flows_into_the_teacher():
    student, teacher = (torch.zeros_like(TOKENS).requires_grad_(), TOKENS.clone().requires_grad_())
    feature_loss(student, teacher).backward()
    torch.testing.assert_close(student.grad, -TOKENS)  # 2 (s - t) / 2
    assert teacher.grad is None


def test_other_widths_are_refused():
    with pytest.raises(UsageError, match="3 and 2 channels"):
        feature_loss(torch.zeros(1, 2, 3), TOKENS)


def test_only_the_channels_that_the_student_kept_are_compared():
    teacher = torch.cat([torch.full((1, 2, 1), 7.0), TOKENS], dim=-1)
    assert feature_loss(TOKENS + 1, teacher, stream=torch.tensor([1, 2])).item() == pytest.approx(4 / 2)


def test_the_channels_that_are_left_are_those_of_the_stream_that_a_block_writes():
    deit, swin = tiny_models.tiny("deit"), tiny_models.tiny("swin")
    left = kept_streams(deit, Plan({"stream:embed": [0, 2]}, {"stream:embed": 24}))
    assert left == {block: [0, 2] for block in blocks_of(deit)}
    left = kept_streams(swin, Plan({"layers.1:embed": [1]}, {"layers.1:embed": 24}))
    assert left == {block: [1] for block in blocks_of(swin) if block.startswith("layers.1.")} != {}
    assert kept_streams(deit, Plan({}, {})) == {}


def test_blocks_are_what_holds_heads_or_hidden_units():
    assert blocks_of(tiny_model(depth=3)) == ["blocks.0", "blocks.1", "blocks.2"]


def test_a_block_that_holds_its_hidden_units_itself_is_found():
    assert blocks_of(tiny_transformers.tiny("yolos"))[-1] == "vit.encoder.layer.1"


def test_one_token_alone_gives_a_finite_loss():
    assert feature_loss(TOKENS[:, :1], TOKENS[:, :1]).item() == 0


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UsageError, match="Linear has none"):
        blocks_of(nn.Linear(2, 2))


def test_what_blocks_hand_on_is_collected_in_order_and_no_hook_stays():
    models = [tiny_model(), tiny_model(seed=1)]
    images = torch.randn(2, 3, 16, 16)
    with handed_on(models, ["blocks.0"]) as found:
        for model in models:
            model(images)
    assert len(found) == 2
    for model, tokens in zip(models, found, strict=True):
        torch.testing.assert_close(model.norm(tokens), model.forward_features(images))
        assert not model.blocks[0]._forward_hooks


def test_a_block_that_a_model_lacks_is_named_and_no_hook_stays():
    model = tiny_model()
    with (
        pytest.raises(UsageError, match=r"blocks\.0, which Linear lacks"),
        handed_on([model, nn.Linear(1, 1)], ["blocks.0"]),
    ):
        pass
    assert not model.blocks[0]._forward_hooks


@pytest.mark.parametrize(("which", "first"), [("last", 1), ("all", 0)])
def test_the_loss_of_a_batch_adds_the_weighted_mean_distance(blobs, which, first):
    student, teacher = tiny_model(depth=2), tiny_model(seed=1, depth=2)
    config = FinetuneConfig(features=3.0, features_of=which)
    job = Job(accelerator(), blobs, config, 4, 0, 0, "fp32")
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    with handed_on([student, teacher], ["blocks.0", "blocks.1"]) as handed:
        logits, wanted = student(images), teacher(images)
    distances = [feature_loss(handed[block], handed[2 + block]) for block in range(first, 2)]
    expected = finetune_loss(logits, labels, wanted, config) + 3 * torch.stack(distances).mean()
    torch.testing.assert_close(job.loss(student, teacher, images, labels), expected)
