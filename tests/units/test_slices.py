"""Cutting by slices, on numbers that can be followed by eye."""

import pytest
import torch
from torch import nn

from xpruner.units import Gate, UnitGroup
from xpruner.units.gates import channel_axis, expand_gates
from xpruner.units.modules.branch import ConstantBranch
from xpruner.units.sliced_adapter import SlicedAdapter
from xpruner.units.slices import Slice, columns, macs_of, params_of, rows


class Layered(nn.Module):
    """A layer of one row of others, two units twice, and one row of others; and one that reads them."""

    def __init__(self):
        super().__init__()
        self.make = nn.Linear(3, 6)
        self.read = nn.Linear(7, 2)
        self.heads, self.rest = 2, nn.Identity()
        self.rest.width = 4
        for layer in (self.make, self.read):
            layer.weight.data = torch.arange(layer.weight.numel(), dtype=torch.float32).view_as(layer.weight)


class Adapter(SlicedAdapter):
    kind, consumer, apart = "head", "read", ("make",)

    def size(self, module):
        return 2

    def slices(self, module):
        return [*rows(module, "make", 2, 1, 5), columns("read", start=5)]

    def attributes(self, module, count):
        return {"heads": count, "rest.width": 2 * count}


def test_a_slice_leaves_what_lies_before_and_behind_it():
    module = Layered()
    bias = module.make.bias.clone()
    Adapter().cut(module, torch.tensor([1]))
    assert module.make.weight[:, 0].tolist() == [0, 6, 12, 15]  # the first row, unit 1 twice, the last row
    assert torch.equal(module.make.bias, bias[[0, 2, 4, 5]])
    assert module.read.weight.tolist() == [[0, 1, 2, 3, 4, 6], [7, 8, 9, 10, 11, 13]]
    assert (module.make.out_features, module.read.in_features) == (4, 6)
    assert (module.heads, module.rest.width) == (1, 2)


def test_a_slice_costs_its_part_of_the_layer():
    module, macs = Layered(), {"": 100.0, "make": 60.0, "read": 14.0}.__getitem__
    slices = Adapter().slices(module)
    assert params_of(module, slices) == 4 * (3 + 1) + 2 * 2
    assert macs_of(module, slices, macs) == 60 * 4 / 6 + 14 * 2 / 7
    (share,) = Adapter().shares(module, macs)
    assert (share.macs, share.params, share.kinds) == (40, 20, ("head",))


def test_a_tensor_of_no_such_name_has_no_slices():
    assert rows(Layered(), "absent") == [] == rows(Layered(), "heads")
    assert rows(Layered(), "read") == [Slice("read.weight"), Slice("read.bias")]


def test_a_gate_behind_channels_of_others():
    gate = Gate("read", outer=2, inner=1, before=3)
    values = expand_gates(torch.tensor([0.0, 0.5]), torch.zeros(4, 8), gate)
    assert values.tolist() == [[1, 1, 1, 0, 0.5, 0, 0.5, 1]]
    group = UnitGroup("attn:head", "head", "attn", 2, (gate,), 1, 1)
    assert group.channels.tolist() == [[3, 5], [4, 6]]


@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d])
def test_the_channels_of_a_map_come_second(layer):
    assert channel_axis(layer(2, 3, 1)) == 1


def test_the_constant_of_a_map_and_of_tokens():
    bias = torch.tensor([1.0, 2.0, 3.0])
    constant = ConstantBranch(bias, 1)(torch.zeros(2, 4, 5, 6))
    assert constant.shape == (2, 3, 5, 6) and torch.equal(constant[1, :, 4, 5], bias)
    constant = ConstantBranch(bias)(torch.zeros(2, 5, 4))
    assert constant.shape == (2, 5, 3) and torch.equal(constant[1, 4], bias)


def test_a_depthwise_convolution_stays_depthwise_and_a_transposed_one_is_cut_in_front():
    module = nn.Module()
    module.depthwise = nn.Conv2d(4, 4, 3, groups=4)
    module.larger = nn.ConvTranspose2d(4, 2, 2, stride=2)

    class Convolutions(Adapter):
        def size(self, module):
            return 4

        def slices(self, module):
            return [*rows(module, "depthwise"), Slice("larger.weight")]

        def attributes(self, module, count):
            return {}

    Convolutions().cut(module, torch.tensor([0, 2, 3]))
    conv, larger = module.depthwise, module.larger
    assert (conv.groups, conv.in_channels, conv.out_channels) == (3, 3, 3)
    assert (larger.in_channels, larger.out_channels) == (3, 2)
    assert larger(conv(torch.ones(1, 3, 5, 5))).shape == (1, 2, 6, 6)
