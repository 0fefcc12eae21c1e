from functools import partial

import pytest
import torch
from tiny_models import VIT, build, tiny
from tiny_transformers import tiny as of_transformers
from torch import Tensor, nn

from xpruner.calibration.incremental_forward import IncrementalForward, block_around, is_fed
from xpruner.errors import XPrunerError
from xpruner.runtime.hooks import capture_inputs
from xpruner.units import find_units


def in_full(model: nn.Module, paths: list[str], images: list[Tensor]) -> list[dict[str, Tensor]]:
    found = []
    for batch in images:
        with capture_inputs(model, paths) as inputs:
            model(batch)
        found.append(dict(inputs))
    return found


def test_the_smallest_listed_module_around_paths(tiny_vit, tiny_swin):
    assert block_around(tiny_vit, ["blocks.1.norm2", "blocks.1.mlp.fc2"]) == "blocks.1"
    assert block_around(tiny_vit, ["blocks.0.mlp.fc2", "blocks.1.mlp.fc2"]) == ""
    assert block_around(tiny_vit, ["head"]) == ""
    assert block_around(tiny_swin, ["layers.1.blocks.0.attn.proj"]) == "layers.1.blocks.0"
    assert block_around(tiny_swin, ["layers.1.blocks.0.attn.proj", "layers.1.downsample.norm"]) == "layers.1"


MODELS = {
    "timm's ViT": lambda: tiny("vit"),
    "timm's Swin": lambda: tiny("swin"),
    "EVA, whose blocks share an embedding": lambda: build("eva02_tiny_patch14_224", **VIT | dict(patch_size=8)),
    "transformers' ViT": lambda: of_transformers("vit"),
    "transformers' Swin": lambda: of_transformers("swin"),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_what_is_read_is_what_a_whole_pass_reads_though_weights_change_on_the_way(make):
    """After each reading the module that read is changed, as compensation does."""
    model = make()
    images = [torch.randn(2, 3, 32, 32) for _ in range(2)]
    passes = IncrementalForward(model, images, "fp32")
    paths = list(find_units(model).of_consumers())
    assert len(paths) >= 4
    for path in paths:
        for read, wanted in zip(passes.read([path]), in_full(model, [path], images), strict=True):
            assert torch.equal(read[path], wanted[path])
        model.get_submodule(path).weight *= 1.01


@torch.no_grad()
def test_blocks_that_were_passed_are_not_run_again(tiny_vit):
    """From the images to a block once for every batch, then to the second block from the first."""
    runs = dict.fromkeys(["patch_embed", "blocks.0", "blocks.1"], 0)

    def count(path: str, *_: object) -> None:
        runs[path] += 1

    for path in runs:
        tiny_vit.get_submodule(path).register_forward_pre_hook(partial(count, path))
    passes = IncrementalForward(tiny_vit, [torch.randn(1, 3, 32, 32) for _ in range(5)], "fp32")
    for path in ("blocks.0.attn.proj", "blocks.0.mlp.fc2", "blocks.1.attn.proj", "blocks.1.mlp.fc2"):
        list(passes.read([path]))
    # 5 batches to each block; readings of 2 modules in 2 blocks; once more to see what the second block is fed with
    assert runs == {"patch_embed": 5 + 1, "blocks.0": 5 + 10 + 1 + 1 + 5, "blocks.1": 1 + 10}


def test_a_block_is_fed_if_it_takes_an_output_and_otherwise_the_same_as_the_block_before():
    x, out, mask = torch.zeros(2), torch.ones(2), torch.ones(1)
    assert is_fed(((out.clone(),), {}), ((x,), {}), out)
    assert is_fed(((out, (3, mask)), {"causal": False}), ((x, (3, mask.clone())), {"causal": False}), out)
    assert not is_fed(((2 * out,), {}), ((x,), {}), out)
    assert not is_fed(((out, mask), {}), ((x, 2 * mask), {}), out)
    assert not is_fed(((out, mask), {}), ((x,), {}), out)
    assert not is_fed(((out,), {"layer": 1}), ((x,), {"layer": 0}), out)
    assert not is_fed(((out,), {"mask": mask}), ((x,), {"mask": None}), out)
    assert not is_fed(((), {"x": out}), ((), {"x": x}), out)
    assert not is_fed(((out,), {}), ((x,), {}), (out,))


def test_a_module_that_is_not_called_is_named():
    model = nn.Sequential(nn.Linear(2, 2))
    model.spare = nn.Linear(2, 2)
    model.forward = lambda x: model[0](x)
    with pytest.raises(XPrunerError, match="does not call its module 'spare'"):
        list(IncrementalForward(model, [torch.zeros(1, 2)], "fp32").read(["spare"]))
