"""Ten thousand random plans, over every adapter and unit kind, without one in which gating and cutting differ."""

import copy

import pytest
import tiny_transformers
import torch
from test_timm_families import BY_CLASS, NAMED, family
from tiny_models import MODELS, tiny
from torch import nn
from versions import there

from xpruner.errors import UsageError
from xpruner.plan.plan import Plan
from xpruner.runtime.outputs import tensors_of
from xpruner.surgery import apply
from xpruner.units import KINDS, UnitGroup, Units, find_units
from xpruner.units.gates import gating

CASES = [("tiny", name) for name in MODELS]
CASES += [("timm", name) for name in (*NAMED, *BY_CLASS) if there(name)]
CASES += [("transformers", name) for name in tiny_transformers.MODELS]
PLANS = -(-10_000 // len(CASES))


def model_of(library: str, name: str) -> tuple[nn.Module, torch.Tensor]:
    """Returns a model in float64, where an error of the cut cannot pass for one of rounding, and two images."""
    if library == "timm":
        model, _, _, images = family(name)
        return copy.deepcopy(model).double(), images.double()
    model = tiny(name) if library == "tiny" else tiny_transformers.tiny(name)
    side = 64 if "detr" in name else 32
    size = find_units(model).input_size if library == "tiny" else (3, side, side)
    return model.double(), torch.randn(2, *size, dtype=torch.float64)


def every_unit(model: nn.Module, size: tuple[int, int, int]) -> Units:
    """Returns the units of all kinds that the model holds and that can be cut exactly."""
    kinds = []
    for kind in KINDS:
        try:
            find_units(model, [kind], size)
        except UsageError:
            continue
        kinds.append(kind)
    return find_units(model, kinds, size)


def some_units(group: UnitGroup) -> list[int]:
    """Any number of units, at least one; of the stream four, for a norm over fewer is next to nothing."""
    least = {"embed": min(4, group.size), "block": 0}.get(group.kind, 1)
    count = int(torch.randint(least, group.size + 1, ()))
    return torch.randperm(group.size)[:count].tolist()


def answer(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(0)  # masked autoencoders hide patches at random
    return tensors_of(model(images))


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name"), CASES)
def test_gated_and_cut_models_agree(library, name):
    model, images = model_of(library, name)
    units = every_unit(model, tuple(images.shape[1:]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(PLANS):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            plan = Plan.of(units, {group.key: some_units(group) for group in units if torch.rand(()) < 0.8})
            with gating(model, units, plan.gates()):
                gated = answer(model, images)
            for cut, wanted in zip(answer(apply(model, plan), images), gated, strict=True):
                scale = wanted.abs().max().clamp(min=1e-12)
                assert (cut - wanted).abs().max() <= 1e-7 * scale, plan.keep
