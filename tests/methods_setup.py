"""What the tests of the methods share: a tiny problem, a network with planted units, and a look at what was kept."""

from collections.abc import Callable, Hashable
from dataclasses import replace

import torch
from tiny_models import VIT, Noise, build
from torch import nn

from xpruner.config import DataConfig, FinetuneConfig, SearchConfig, preset
from xpruner.methods import Problem, find_method
from xpruner.methods._scoring import Scores
from xpruner.plan.budget import Budget, minimum
from xpruner.plan.plan import Plan
from xpruner.units import UnitGroup, Units, find_units

DEEP = VIT | {"depth": 12}
"""Deep enough that token pools at some of its blocks come close to any budget."""


def tiny_problem(
    method: str, model: nn.Module | None = None, budget: float = 0.5, steps: int = 6, **changes
) -> Problem:
    """Returns a problem of the kinds of unit that a method was made for, on 40 images of noise.

    Args:
        method: Its name.
        model: Five classes, 32-pixel images; a small ViT when absent.
        budget: Share of the MACs.
        steps: Updates of a search that trains.
        **changes: Fields of the RunConfig.
    """
    config = replace(
        preset("default"), method=method, data=DataConfig(batch_size=8), search=SearchConfig(steps=steps),
        finetune=FinetuneConfig(epochs=1), precision="fp32", **changes,
    )  # fmt: skip
    model = build("vit_tiny_patch16_224", **VIT) if model is None else model
    return Problem(model, find_units(model, find_method(method).kinds), Noise(40), batches(), 5, Budget(budget), config)


def batches() -> list:
    """Returns the 40 images of noise as one batch."""
    data = Noise(40)
    return [torch.utils.data.default_collate([data[i] for i in range(40)])]


def planted(model: nn.Module) -> nn.Module:
    """Makes hidden unit 0 of every block drive the output, and units from 48 on idle: small weights, never read."""
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight[0] *= 3
            block.mlp.fc1.bias[0] = 1.0
            block.mlp.fc2.weight[:, 0] *= 20
            block.mlp.fc1.weight[48:] *= 0.01
            block.mlp.fc1.bias[48:] = 0
            block.mlp.fc2.weight[:, 48:] = 0
    return model


def scopes_cut_by_score(
    plan: Plan, units: Units, scores: Scores, scope_of: Callable[[UnitGroup], Hashable]
) -> dict[Hashable, bool]:
    """Returns for each scope that lost units whether none of them scores above one that was kept.

    Units of groups at their minimum were kept whatever they score and are left out.
    """
    scopes: dict[Hashable, tuple[list, list]] = {}
    for each in units:
        kept, removed = scopes.setdefault(scope_of(each), ([], []))
        gone = sorted({*range(each.size)} - {*plan.keep[each.key]})
        removed += scores[each.key][gone].tolist()
        if len(plan.keep[each.key]) > minimum(each):
            kept += scores[each.key][plan.keep[each.key]].tolist()
    return {scope: max(removed) <= min(kept) for scope, (kept, removed) in scopes.items() if removed and kept}
