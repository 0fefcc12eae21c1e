import copy

import pytest
import torch
from tiny_models import VIT, build, tiny
from tiny_transformers import tiny as of_transformers
from torch import nn

from xpruner.calibration.incremental_forward import IncrementalForward
from xpruner.compensation.block_streams import block_streams, in_channels

MODELS = {
    "timm's ViT": (lambda: tiny("vit"), "blocks.1"),
    "timm's Swin": (lambda: tiny("swin"), "layers.1.blocks.0"),
    "EVA": (lambda: build("eva02_tiny_patch14_224", **VIT), "blocks.1"),
    "transformers' ViT": (lambda: of_transformers("vit classifier"), "vit.encoder.layer.1"),
    "transformers' Swin": (lambda: of_transformers("swin"), "swin.encoder.layers.0.blocks.1"),
}


def passes(model: nn.Module, count: int = 2) -> IncrementalForward:
    generator = torch.Generator().manual_seed(3)
    images = [torch.randn(size, 3, 32, 32, generator=generator) for size in (3, 2)[:count]]
    return IncrementalForward(model, images, "fp32")


@pytest.mark.parametrize(("make", "block"), MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_a_block_run_on_what_is_stored_puts_out_what_it_does_in_the_whole_model(make, block):
    """Both networks are the same, so that the target is reached, in whichever order images are drawn."""
    model = make()
    if block not in dict(model.named_modules()):
        pytest.skip(f"this release of transformers has no {block}")
    streams = block_streams(block, passes(model), passes(copy.deepcopy(model)), None)
    assert streams is not None
    assert len(streams.inputs) == len(streams.targets) == 5
    chosen = torch.tensor([4, 0, 2])
    torch.testing.assert_close(streams.outputs(chosen), streams.targets[chosen])
    assert not torch.equal(streams.targets[0], streams.targets[1])


class PerImage(nn.Module):
    """A block that is told something of each image besides the stream."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([_Scaled()])

    def forward(self, x):
        return self.blocks[0](x, x.amax((1, 2, 3), keepdim=True))


class _Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, scale):
        return self.weight * x * scale


def test_a_block_whose_other_arguments_depend_on_the_image_is_not_followed():
    assert block_streams("blocks.0", passes(PerImage()), passes(PerImage()), None) is None


def test_channels_that_are_kept_lie_where_the_stream_is_narrower():
    dense = torch.arange(12.0).view(2, 2, 3)
    assert in_channels(dense, (2, 3), None) is dense
    assert in_channels(dense, (2, 2), [0, 2]).tolist() == [[[0, 2], [3, 5]], [[6, 8], [9, 11]]]
    assert in_channels(dense.mT, (2, 2), [0, 2]).tolist() == [[[0, 3], [2, 5]], [[6, 9], [8, 11]]]
    assert in_channels(dense, (2, 2), None) is None
    assert in_channels(dense, (2, 2), [0]) is None
    assert in_channels(dense, (3,), [0, 1, 2]) is None
