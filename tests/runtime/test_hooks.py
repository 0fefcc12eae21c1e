import pytest
import torch
from torch import nn

from xpruner.runtime.hooks import capture_inputs, capture_outputs, hooked

CAPTURES = [capture_inputs, capture_outputs]


def doubling_then_adding_one():
    double, add = nn.Linear(1, 1, bias=False), nn.Linear(1, 1)
    for layer in (double, add):
        nn.init.constant_(layer.weight, 2.0 if layer is double else 1.0)
    nn.init.constant_(add.bias, 1.0)
    return nn.Sequential(double, add)


def hooks_on(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_the_latest_inputs_and_outputs_are_captured_by_path():
    model = doubling_then_adding_one()
    with capture_inputs(model, ["1"]) as inputs, capture_outputs(model, ["0", "1"]) as outputs:
        for x in (5.0, 3.0):
            model(torch.tensor([[x]]))
    assert {path: x.item() for path, x in inputs.items()} == {"1": 6.0}
    assert {path: y.item() for path, y in outputs.items()} == {"0": 6.0, "1": 7.0}


@pytest.mark.parametrize("capture", CAPTURES)
def test_no_hook_is_left_after_the_block(capture):
    model = doubling_then_adding_one()
    with capture(model, ["0", "1"]):
        assert hooks_on(model) == 2
    assert hooks_on(model) == 0


@pytest.mark.parametrize("capture", CAPTURES)
def test_no_hook_is_left_when_the_block_raised(capture):
    model = doubling_then_adding_one()
    with pytest.raises(ZeroDivisionError), capture(model, ["0", "1"]):
        raise ZeroDivisionError
    assert hooks_on(model) == 0


@pytest.mark.parametrize("capture", CAPTURES)
def test_no_hook_is_left_when_a_later_module_is_missing(capture):
    model = doubling_then_adding_one()
    with pytest.raises(AttributeError), capture(model, ["0", "absent"]):
        pass
    assert hooks_on(model) == 0


def test_hooks_are_registered_as_the_block_is_entered_and_removed_after_it():
    model = doubling_then_adding_one()
    halved = hooked(layer.register_forward_hook(lambda _module, _args, output: output / 2) for layer in model)
    assert hooks_on(model) == 0
    with halved:
        assert model(torch.tensor([[3.0]])).item() == 2.0  # (3 * 2 / 2 + 1) / 2
    assert model(torch.tensor([[3.0]])).item() == 7.0
