import pytest
import tiny_models
import tiny_transformers
import torch
from tiny_training import tiny_model
from torch import nn

from xpruner.config import FinetuneConfig
from xpruner.errors import UsageError
from xpruner.plan.plan import Plan
from xpruner.runtime.devices import accelerator
from xpruner.training.features import capture_block_outputs, feature_loss, kept_stream, last_block
from xpruner.training.finetune_job import FinetuneJob
from xpruner.training.losses import finetune_loss
from xpruner.training.options import LoopOptions

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


@pytest.mark.parametrize(("model", "key"), [("deit", "stream:embed"), ("swin", "layers.1:embed")])
def test_the_channels_that_are_left_are_those_of_the_last_stream(model, key):
    model = tiny_models.tiny(model)
    assert kept_stream(model, Plan({key: [0, 2]}, {key: 24})) == [0, 2]
    assert kept_stream(model, Plan({"layers.0:embed": [1]}, {"layers.0:embed": 24})) is None
    assert kept_stream(model, Plan({}, {})) is None


def test_the_last_block_is_that_of_the_last_heads_or_hidden_units():
    assert last_block(tiny_model(depth=3)) == "blocks.2"


def test_a_block_that_holds_its_hidden_units_itself_is_found():
    assert last_block(tiny_transformers.tiny("yolos")) == "vit.encoder.layer.1"


def test_one_token_alone_gives_a_finite_loss():
    assert feature_loss(TOKENS[:, :1], TOKENS[:, :1]).item() == 0


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UsageError, match="Linear has none"):
        last_block(nn.Linear(2, 2))


def test_outputs_of_blocks_are_collected_in_order_and_no_hook_remains():
    models = [tiny_model(), tiny_model(seed=1)]
    images = torch.randn(2, 3, 16, 16)
    with capture_block_outputs(models, "blocks.0") as found:
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
        capture_block_outputs([model, nn.Linear(1, 1)], "blocks.0"),
    ):
        pass
    assert not model.blocks[0]._forward_hooks


def test_the_loss_of_a_batch_adds_the_weighted_distance(blobs):
    student, teacher = tiny_model(), tiny_model(seed=1)
    config = FinetuneConfig(features=3.0)
    job = FinetuneJob(accelerator(), blobs, config, LoopOptions(batch_size=4))
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    with capture_block_outputs([student, teacher], "blocks.0") as outputs:
        logits, wanted = student(images), teacher(images)
    expected = finetune_loss(logits, labels, wanted, config) + 3 * feature_loss(*outputs)
    torch.testing.assert_close(job.loss(student, teacher, images, labels), expected)
