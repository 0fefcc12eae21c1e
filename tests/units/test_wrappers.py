"""What training scripts have in their hands: wrappers and changed layers are refused at once, with what to do."""

import pytest
import torch
from tiny_models import tiny, units_of
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from xpruner.errors import UsageError
from xpruner.models.checkpoint import save
from xpruner.plan.plan import Plan
from xpruner.surgery import apply
from xpruner.units import find_units
from xpruner.units.wrappers import check_module


class Lora(nn.Module):
    """As peft's lora.Linear: the layer and two small ones beside it."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base_layer = base
        self.a, self.b = nn.Linear(base.in_features, 4, False), nn.Linear(4, base.out_features, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.b(self.a(x))


class Trainer(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.loss, self.net = nn.CrossEntropyLoss(), model


def with_adapter() -> nn.Module:
    model = tiny("vit")
    model.blocks[1].attn.qkv = Lora(model.blocks[1].attn.qkv)
    return model


def with_own_adapter() -> nn.Module:
    model = tiny("vit")
    model.blocks[1].mlp.fc1.lora_A = nn.Parameter(torch.zeros(4, 24))
    return model


def changed(change) -> nn.Module:
    model = tiny("vit")
    change(model.blocks[0].mlp.fc1)
    return model


def quantised() -> nn.Module:
    model = tiny("vit")
    model.head = nn.Linear(2, 2)
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)


FC1 = r"model\.blocks\[0\]\.mlp\.fc1"
CASES = {
    "adapter": (with_adapter, r"'blocks\.1\.attn\.qkv' \(Lora\) is an adapter .*merge_and_unload"),
    "own adapter": (with_own_adapter, r"'blocks\.1\.mlp\.fc1' \(Linear\) is an adapter"),
    "parallel": (lambda: nn.DataParallel(tiny("vit")), r"DataParallel only wraps .*; pass model\.module itself"),
    "sequential": (lambda: nn.Sequential(nn.Identity(), tiny("vit")), r"pass model\[1\] itself"),
    "trainer": (lambda: Trainer(tiny("swin")), r"Trainer only wraps the SwinTransformer .*; pass model\.net itself"),
    "compiled": (lambda: torch.compile(tiny("vit"), backend="eager"), r"pass model\._orig_mod itself"),
    "compiled and parallel": (
        lambda: nn.DataParallel(torch.compile(tiny("vit"), backend="eager")),
        r"pass model\.module\._orig_mod itself",
    ),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(tiny("vit")), r"pass model\.module itself"),
    "pruned by torch": (
        lambda: changed(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
        rf"its weight from others; .*torch\.nn\.utils\.prune\.remove\({FC1}, 'weight'\)",
    ),
    "weight norm": (
        lambda: changed(parametrizations.weight_norm),
        rf"make its weight plain first: .*remove_parametrizations\({FC1}, 'weight'\)",
    ),
    "older weight norm": (
        lambda: changed(nn.utils.weight_norm),
        rf"its weight from others; .*torch\.nn\.utils\.remove_weight_norm\({FC1}, 'weight'\)",
    ),
    "older spectral norm": (
        lambda: changed(nn.utils.spectral_norm),
        rf"torch\.nn\.utils\.remove_spectral_norm\({FC1}, 'weight'\)",
    ),
    "parametrized": (
        lambda: changed(lambda layer: parametrize.register_parametrization(layer, "bias", nn.ReLU())),
        rf"make its bias plain first: .*remove_parametrizations\({FC1}, 'bias'\)",
    ),
    "quantised": (quantised, "is quantised; prune the float32 model first"),
    "scripted": (lambda: torch.jit.script(nn.Linear(2, 2)), "is compiled code; pass the model as it was before"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(2)), "has no shape yet; run one image through the model first"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_each_is_refused_by_every_step_with_what_to_do(tmp_path, name):
    make, message = CASES[name]
    steps = {
        "find": lambda model: find_units(model, size=(3, 32, 32)),
        "apply": lambda model: apply(model, Plan.of(units_of("vit"), {})),
        "save": lambda model: save(model, tmp_path / "saved"),
    }
    for step in steps.values():
        with pytest.raises(UsageError, match=message):
            step(make())
    assert not (tmp_path / "saved").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change, undo", [
    (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), lambda layer: prune.remove(layer, "weight")),
    (parametrizations.weight_norm, lambda layer: parametrize.remove_parametrizations(layer, "weight")),
    (nn.utils.weight_norm, lambda layer: nn.utils.remove_weight_norm(layer, "weight")),
])  # fmt: skip
def test_what_the_message_says_helps(change, undo):
    model = tiny("vit")
    change(model.blocks[0].mlp.fc1)
    undo(model.blocks[0].mlp.fc1)
    check_module(model)
    assert len(find_units(model)) == len(units_of("vit"))


def test_modules_of_ones_own_are_no_wrappers():
    check_module(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))))
