"""SCOP: what is mixed and with what, how a unit's scale and share become a score, and how the shares are learned."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from methods_setup import tiny_problem
from tiny_models import footprint, group
from torch import nn

from xpruner.errors import UsageError
from xpruner.methods import find_method, scop
from xpruner.units import Units, find_units


class Reader(nn.Module):
    """A consumer alone: its input is the image."""

    def __init__(self, weight: list[list[float]]):
        super().__init__()
        self.consumer = nn.Linear(len(weight[0]), len(weight), bias=False)
        self.consumer.weight.data = torch.tensor(weight)

    def forward(self, x):
        return self.consumer(x)


def reader(weight: list[list[float]], size: int, width: int = 1) -> tuple[nn.Module, Units]:
    return nn.ModuleDict({"mlp": Reader(weight)}), Units((group("mlp:hidden", size, width=width),), 1, 1, (3, 1, 1))


def test_the_real_half_is_mixed_and_the_knockoffs_stay():
    model, units = reader([[1.0, 0.0], [0.0, 1.0]], 2)
    both = torch.tensor([[2.0, 4.0], [6.0, 8.0]])
    with scop.mixing(model, units, {"mlp:hidden": torch.tensor([0.25, 1.0])}):
        out = model["mlp"](both)
    assert out.tolist() == [[0.25 * 2 + 0.75 * 6, 4.0], [6.0, 8.0]]


def test_all_channels_of_a_head_are_mixed_alike():
    model, units = reader(torch.eye(4).tolist(), 2, width=2)
    both = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    with scop.mixing(model, units, {"mlp:hidden": torch.tensor([0.5, 0.0])}):
        assert model["mlp"](both)[0].tolist() == [0.5, 1.0, 0.0, 0.0]


def test_windows_are_mixed_with_the_same_windows_of_the_knockoff(tiny_swin):
    """With every share 0 the real half becomes what the knockoffs are, from the first block on but for the stream."""
    units = find_units(tiny_swin)
    images = torch.randn(3, 3, 32, 32)
    read = {}
    path = "layers.0.blocks.0.attn.proj"
    zero = {group.key: torch.zeros(group.size) for group in units}
    with torch.no_grad(), scop.mixing(tiny_swin, units, zero):
        handle = tiny_swin.get_submodule(path).register_forward_pre_hook(lambda _, args: read.update(mixed=args[0]))
        tiny_swin(torch.cat([images, images.flip(0)]))
        handle.remove()
        real, knockoff = read["mixed"].chunk(2)
    assert torch.equal(real, knockoff) and len(real) == 3 * 16


def test_a_unit_that_tells_real_from_knockoff_by_nothing_gets_no_gradient(tiny_vit):
    images = torch.randn(2, 3, 32, 32)
    units = find_units(tiny_vit)
    outputs = []
    for share in (0.1, 0.9):
        shares = {group.key: torch.full((group.size,), share, requires_grad=True) for group in units}
        with scop.mixing(tiny_vit, units, shares):
            out = tiny_vit(torch.cat([images, images]))[:2]
        slopes = torch.autograd.grad(out.square().sum(), list(shares.values()))
        assert max(slope.abs().max().item() for slope in slopes) < 1e-4
        outputs.append(out)
    assert torch.allclose(*outputs, atol=1e-5)


def test_the_gradient_is_the_weight_times_what_real_exceeds_the_knockoff():
    model, units = reader([[2.0, -3.0]], 2)
    share = torch.tensor([0.5, 0.5], requires_grad=True)
    with scop.mixing(model, units, {"mlp:hidden": share}):
        out = model["mlp"](torch.tensor([[5.0, 1.0], [1.0, 0.0]]))
    assert torch.autograd.grad(out[0].sum(), share)[0].tolist() == [2.0 * (5 - 1), -3.0 * (1 - 0)]


def test_nothing_remains_after_an_exception(tiny_swin):
    marks, units = footprint(tiny_swin), find_units(tiny_swin)
    with pytest.raises(ZeroDivisionError), scop.mixing(tiny_swin, units, {units.groups[0].key: torch.ones(2)}):
        raise ZeroDivisionError
    assert footprint(tiny_swin) == marks


def test_knockoffs_have_the_amplitudes_and_the_mean_of_another_image_and_other_phases():
    images = torch.randn(4, 3, 8, 6) + torch.arange(4.0).view(4, 1, 1, 1)
    torch.manual_seed(3)
    false = scop.knockoffs(images)
    torch.manual_seed(3)
    torch.rand(4, 1, 8, 6)
    source = images[torch.randperm(4)]
    assert torch.allclose(torch.fft.fft2(false).abs(), torch.fft.fft2(source).abs(), atol=1e-4)
    assert torch.allclose(false.mean((2, 3)), source.mean((2, 3)), atol=1e-5)
    overlap = torch.cosine_similarity((false - false.mean()).flatten(1), (source - source.mean()).flatten(1))
    assert false.shape == images.shape and overlap.abs().max() < 0.7


def test_scale_is_the_norm_of_the_columns_that_read_a_unit():
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[3.0, 0.0, 1.0, 2.0], [4.0, 0.0, 2.0, 4.0]])
    assert scop.scale(layer, group("mlp:hidden", 4)).tolist() == pytest.approx([5.0, 0.0, 5**0.5, 20**0.5])
    assert scop.scale(layer, group("attn:head", 2, width=2)).tolist() == pytest.approx([5.0, 5.0])


def test_scale_of_a_convolution_in_groups():
    """The first two inputs are read by the first output alone, the others by the second."""
    layer = nn.Conv2d(4, 2, 1, groups=2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(2, 2, 1, 1)
    assert scop.scale(layer, group("mlp:hidden", 4)).tolist() == [1.0, 2.0, 3.0, 4.0]


def test_score_is_the_papers():
    """2 (0.75 - 0.25); 2 (0.5 - 0.5); 3 (0 - 1); 0 whatever the share."""
    scales, shares = torch.tensor([2.0, 2.0, 3.0, 0.0]), torch.tensor([0.75, 0.5, 0.0, 0.9])
    assert scop.score(scales, shares).tolist() == [1.0, 0.0, -3.0, 0.0]


def test_short_searches_make_up_by_their_rate():
    assert scop.rate(600) == scop.rate(5000) == 4e-3
    assert scop.rate(100) == pytest.approx(0.024)
    assert scop.rate(0) == 2.4


def test_shares_are_clamped_after_every_update():
    """The one update carries every share beyond an end."""
    shares = torch.cat(list(scop._learn_shares(tiny_problem("scop", steps=1)).values()))
    assert shares.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("honest", [True, False])
def test_shares_are_learned_from_the_labels(tiny_vit, honest):
    """The first channel is the label or its opposite; the second is read but uninformative, the third is unread."""
    reading, units = reader([[4.0, 3.0, 0.0], [-4.0, 3.0, 0.0]], 3)
    images = torch.randn(40, 3, 1, 1).sign()
    labels = ((images[:, 0, 0, 0] < 0) == honest).long().tolist()
    train = list(zip(images, labels, strict=True))
    model = nn.Sequential(OrderedDict(flat=nn.Flatten(), mlp=reading["mlp"]))
    found = scop.scop(replace(tiny_problem("scop", tiny_vit, steps=20), model=model, units=units, train=train))
    first, second, third = found["mlp:hidden"].tolist()
    assert first > 2 > second if honest else first < -2
    assert third == 0


def test_each_layer_loses_the_same_share():
    plan = find_method("scop")(tiny_problem("scop", steps=1)).plan
    assert len({len(kept) for key, kept in plan.keep.items() if key.endswith("hidden")}) == 1


def test_units_that_no_layer_reads_are_refused(tiny_vit):
    problem = replace(tiny_problem("scop", tiny_vit), units=find_units(tiny_vit, ["qk"]))
    with pytest.raises(UsageError, match=r"qk units of 'blocks\.0\.attn'"):
        find_method("scop")(problem)
