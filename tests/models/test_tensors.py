"""Weights that are no floating-point numbers to be pruned are named when they are read."""

import logging

import pytest
import safetensors.torch
import torch
from tiny_models import tiny
from torch import nn

from xpruner.errors import UsageError
from xpruner.models.checkpoint import load, save
from xpruner.models.tensors import check_tensors, check_types, check_weights, in_float32
from xpruner.models.weights import load_weights, stored_weights

ODD = [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2]


def word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", ODD)
def test_weights_of_another_type_are_named(tmp_path, dtype):
    model = tiny("vit")
    weights = model.state_dict()
    weights["head.weight"] = weights["head.weight"].to(dtype)
    message = rf"The weight 'head\.weight' of .* is of the type {word(dtype)}; give its weights in float32"
    with pytest.raises(UsageError, match=message):
        check_tensors(weights, dict(model.named_parameters()), "it")
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=message):
        load_weights(model, tmp_path / "a.pth", stored_weights(tmp_path / "a.pth"))
    save(model, tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").write_bytes(safetensors.torch.save(weights))
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "saved")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_named_and_counted(tmp_path, value):
    model = tiny("vit")
    weights = model.state_dict()
    weights["head.bias"][:2] = value
    message = r"The weight 'head\.bias' of .* holds 2 values that are NaN or infinite; give weights from before"
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=message):
        load_weights(tiny("vit"), tmp_path / "a.safetensors", stored_weights(tmp_path / "a.safetensors"))
    with pytest.raises(UsageError, match=message):
        check_weights(model, "the model")
    save(tiny("vit"), tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").write_bytes(safetensors.torch.save(weights))
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "saved")


def test_buffers_may_count_and_hide_but_be_no_nan():
    module = nn.BatchNorm1d(2)
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    check_weights(module, "it")
    module.running_mean[0] = torch.nan
    with pytest.raises(UsageError, match="'running_mean' of it holds 1 values that are NaN"):
        check_weights(module, "it")


def test_weights_without_values_and_of_other_layouts_are_named():
    with torch.device("meta"), pytest.raises(UsageError, match="'weight' of it is on the meta device"):
        check_weights(nn.Linear(2, 2), "it")
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    for tensor, kind in ((quantised, "tensor in qint8"), (torch.ones(2, 2).to_sparse(), "tensor in float32")):
        with pytest.raises(UsageError, match=rf"'weight' of it is a {kind}; give its weights in float32"):
            check_tensors({"weight": tensor}, {"weight"}, "it")


def test_a_type_in_a_folder_tells_although_the_library_turns_it(tmp_path):
    index = torch.arange(3)
    safetensors.torch.save_file({"a": torch.ones(2), "index": index}, tmp_path / "model-1.safetensors")
    check_types(tmp_path, {"a"})
    for kind, name in ((torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.int64, "I64")):
        safetensors.torch.save_file({"a": torch.ones(2).to(kind)}, tmp_path / "model-2.safetensors")
        with pytest.raises(UsageError, match=rf"'a' in .*model-2\.safetensors is of the type {name}; give its weights"):
            check_types(tmp_path, {"a"})


def test_other_precisions_are_read_in_float32_which_is_said(caplog):
    tensors = {"a": torch.tensor([1.5]).half(), "b": torch.tensor([2.5]).double(), "c": torch.arange(2)}
    with caplog.at_level(logging.INFO, "xpruner"):
        read = in_float32(tensors, "model.safetensors")
    assert [read[name].dtype for name in "abc"] == [torch.float32, torch.float32, torch.int64]
    assert (read["a"].item(), read["b"].item()) == (1.5, 2.5)
    assert "model.safetensors has weights in float16 and float64; they are read in float32." in caplog.text
    caplog.clear()
    in_float32({"a": torch.ones(1)}, "it")
    assert caplog.text == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_checkpoint_in_another_precision_is_read_in_float32(tmp_path, dtype):
    wanted, model = tiny("vit").to(dtype), tiny("vit")
    torch.save(wanted.state_dict(), tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth", stored_weights(tmp_path / "a.pth"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.head.weight, wanted.head.weight.float())
