"""Two invariants of the whole: no label at inference, and the budget is met by torch's own counter."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import xpruner
from xpruner.plan.budget import Budget
from xpruner.plan.solver import plan_from_scores
from xpruner.training import evaluate


class Pairs(torch.utils.data.Dataset):
    def __init__(self, labels: list[int]):
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index)), self.labels[index]


def test_2_the_label_never_reaches_inference(tiny_vit, tmp_path):
    """The model sees the same arguments whatever the labels are, and a saved model holds no mask."""
    seen: list[tuple] = []
    tiny_vit.register_forward_pre_hook(lambda _m, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    for labels in ([0, 1, 2], [2, 0, 1]):
        evaluate(tiny_vit, Pairs(labels), batch_size=3)
    (first,), (second,) = seen[0][0], seen[1][0]
    assert torch.equal(first, second)
    assert seen[0][1] == seen[1][1] == {}
    units = xpruner.find_units(tiny_vit)
    plan = plan_from_scores(units, {g.key: torch.rand(g.size) for g in units}, Budget(0.5))
    names = xpruner.apply(tiny_vit, plan).state_dict().keys()
    assert names == tiny_vit.state_dict().keys()


MODELS = {
    "deit": ("deit_tiny_patch16_224", {"img_size": 96, "num_classes": 10}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 48, "depths": (2, 4, 2),
         "num_heads": (3, 6, 12), "num_classes": 10},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("budget", [0.7, 0.5, 0.3])
def test_4_the_budget_is_met_by_torchs_flop_counter(name, budget):
    """On real inputs and on the CPU, attention unfused so that the counter sees it."""
    architecture, kwargs = MODELS[name]
    model = timm.create_model(architecture, **kwargs).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    units = xpruner.find_units(model)
    pruned = xpruner.apply(model, plan_from_scores(units, {g.key: torch.rand(g.size) for g in units}, Budget(budget)))
    counts = []
    for candidate in (model, pruned):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            candidate(torch.randn(1, *units.input_size))
        counts.append(counter.get_total_flops())
    assert counts[1] / counts[0] == pytest.approx(budget, rel=0.01)
    assert counts[0] / 2 == units.total_macs
