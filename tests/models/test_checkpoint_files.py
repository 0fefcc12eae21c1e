"""Files that are taken for checkpoints: all that timm reads, and what is said of the others."""

import argparse
import logging
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from tiny_models import VIT, tiny

from xpruner.errors import UsageError, XPrunerError
from xpruner.models.checkpoint_files import read_weights


def weights() -> dict[str, torch.Tensor]:
    return tiny("vit").state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in weights().items()}


def assert_same(given: dict[str, torch.Tensor]) -> None:
    wanted = weights()
    assert given.keys() == wanted.keys()
    assert all(torch.equal(given[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", ["pth", "bin", "pth.tar", "safetensors"])
def test_wrappers_of_training_are_taken_off(tmp_path, prefix, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(prefixed(prefix), path)
    else:
        torch.save(prefixed(prefix), path)
    assert_same(read_weights(path))


ORDER = ["state_dict_ema", "model_ema", "state_dict", "model"]


@pytest.mark.parametrize("best", range(4))
def test_of_several_sets_of_weights_the_one_of_timm_is_taken_and_named(tmp_path, caplog, best):
    others = {name: torch.zeros_like(tensor) for name, tensor in weights().items()}
    path = tmp_path / "a.pth"
    torch.save({key: weights() if key == ORDER[best] else others for key in reversed(ORDER[best:])}, path)
    with caplog.at_level(logging.INFO, "xpruner"):
        given = read_weights(path)
    assert_same(given)
    assert_same(timm.models.load_state_dict(str(path)))
    assert (f"{ORDER[best]!r} is read, as in timm" in caplog.text) == (best < 3)


def test_averages_that_were_switched_off_are_passed_over(tmp_path):
    torch.save({"model": weights(), "model_ema": None}, tmp_path / "a.pth")
    assert_same(read_weights(tmp_path / "a.pth"))


@pytest.mark.parametrize("beside", [
    argparse.Namespace(lr=1e-3, output_dir=Path("out")),
    np.float64(0.5),
    {"best": np.float32(81.8), "seed": np.arange(3)},
])  # fmt: skip
def test_what_training_scripts_leave_beside_the_weights_does_no_harm(tmp_path, beside):
    torch.save({"state_dict": weights(), "args": beside, "epoch": 1}, tmp_path / "last.pth.tar")
    assert_same(read_weights(tmp_path / "last.pth.tar"))


def test_safetensors_are_known_by_their_content(tmp_path):
    safetensors.torch.save_file(weights(), tmp_path / "a.pth")
    assert_same(read_weights(tmp_path / "a.pth"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content, kind", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "a pointer of git-LFS .*; run git lfs"),
    (b"\n<!DOCTYPE html><html>", "a web page; download the file itself"),
    (b"hello", "text; give a file of weights"),
    ("ä".encode() * 700, "text; give"),
    (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file, as Keras writes it; give the weights as safetensors"),
    (b"\x1f\x8b" + bytes(99), "compressed by gzip; unpack it first"),
])  # fmt: skip
def test_what_is_no_checkpoint_says_what_it_is(tmp_path, suffix, content, kind):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(UsageError, match=rf"The checkpoint .*a\.{suffix} is {kind}"):
        read_weights(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("content", [b"", b"h5" + bytes(64), b"PK\x03\x04" + bytes(64), bytes(64), b"\x80\x02}q\x00."])
def test_bytes_that_are_nothing_are_damaged_or_empty(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(XPrunerError, match=r"is damaged|no weights by name"):
        read_weights(tmp_path / "a.pth")


def test_a_whole_pickled_module_is_called_so_and_not_run(tmp_path):
    torch.save(timm.create_model("vit_tiny_patch16_224", **VIT), tmp_path / "a.pth")
    with pytest.raises(XPrunerError, match=r"holds code \(.*\), as a whole pickled module does, .*its state_dict\(\)"):
        read_weights(tmp_path / "a.pth")


def test_a_torchscript_archive_is_called_so(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pth")
    with pytest.raises(UsageError, match="is a TorchScript archive, which is code; give a file of its state_dict"):
        read_weights(tmp_path / "a.pth")


def test_a_checkpoint_of_the_optimizer_alone_says_what_it_holds(tmp_path):
    torch.save({"optimizer": {"state": {}}, "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"holds no weights by name but optimizer, epoch; give a file of a model's"):
        read_weights(tmp_path / "a.pth")
