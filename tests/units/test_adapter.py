"""An adapter written outside the package, with public names alone."""

import copy

import pytest
import torch
from torch import nn

from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import (
    CostShare,
    Gate,
    Slice,
    SlicedAdapter,
    columns,
    find_units,
    prunable_parts,
    register_adapter,
    rows,
)
from xpruner.units.gates import gating
from xpruner.units.registry import _adapters

UNITS, WIDTH = 3, 2


class Perceptron(nn.Module):
    """Three hidden units between two layers, on one (3, 2, 2) image at a time; its number of units is an attribute."""

    def __init__(self):
        super().__init__()
        self.make, self.read = nn.Linear(12, UNITS), nn.Linear(UNITS, WIDTH)
        self.count = UNITS

    def forward(self, images):
        return self.read(self.make(images.flatten(1)).relu())


class OfSlices(SlicedAdapter):
    kind = "hidden"
    consumer = "read"
    may_be_empty = True

    def size(self, module):
        return module.count

    def slices(self, module):
        return [*rows(module, "make"), columns("read")]

    def attributes(self, module, count):
        return {"count": count}


class OfProtocol:
    """The same, from the protocol alone."""

    kind = "hidden"
    whole_model = False
    owns = ()

    def holds(self, module):
        return True

    def refuse(self, module):
        return None

    def size(self, module):
        return module.count

    def gates(self, module):
        return (Gate("read"),)

    def slices(self, module):
        return [Slice("make.weight"), Slice("make.bias"), Slice("read.weight", 1)]

    def shares(self, module, macs):
        return [CostShare(macs(""), (12 + 1 + WIDTH) * module.count, ("hidden",))]

    def resizable(self, module):
        return module

    def cut(self, module, keep):
        for tensor, axis in (("make.weight", 0), ("make.bias", 0), ("read.weight", 1)):
            layer, name = tensor.split(".")
            kept = getattr(module.get_submodule(layer), name).detach().index_select(axis, keep)
            setattr(module.get_submodule(layer), name, nn.Parameter(kept))
        module.count = len(keep)

    def remains(self, module):
        return None


@pytest.fixture(params=[OfSlices, OfProtocol])
def registered(request, monkeypatch):
    monkeypatch.setattr("xpruner.units.registry._adapters", copy.copy(_adapters))
    return register_adapter(Perceptron)(request.param)


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Perceptron()

    def forward(self, images):
        return self.inner(images)


def test_its_units_are_found_with_what_they_cost(registered):
    (group,) = find_units(Around(), size=(3, 2, 2))
    assert (group.key, group.size, group.consumer) == ("inner:hidden", 3, "inner.read")
    assert (group.macs, group.params) == (12 + 2, 12 + 1 + 2)


def test_the_cut_model_computes_what_the_gated_one_computes(registered):
    model, images = Around(), torch.randn(2, 3, 2, 2)
    units = find_units(model, size=(3, 2, 2))
    plan = Plan.of(units, {"inner:hidden": [0, 2]})
    with gating(model, units, plan.gates()):
        wanted = model(images)
    pruned = apply(model, plan)
    torch.testing.assert_close(pruned(images), wanted)
    assert pruned.inner.make.weight.shape == (2, 12)
    assert prunable_parts(pruned)["inner:hidden"].size == 2


def test_a_replacement_has_the_adapter_of_the_class_that_it_replaces():
    pairs = [
        (kind, adapter, adapter.replacements[cls])
        for cls, adapters in _adapters.items()
        for kind, adapter in adapters.items()
        if cls in getattr(adapter, "replacements", {})
    ]
    assert len(pairs) > 30
    assert [pair for pair in pairs if type(_adapters[pair[2]][pair[0]]) is not type(pair[1])] == []
