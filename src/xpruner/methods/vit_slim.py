"""ViT-Slim (CVPR 2022), ViT-Slim-style: gates on all dimensions are trained with the weights under an L1 penalty.

Kept: gates that start at 1 multiply continuous values in every forward pass and are trained together with the weights,
under an L1 penalty of one weight for attention and one for the MLPs; nothing is cut before one global sort for each
kind of unit. Adapted [our choice]: the paper has a gate for every dimension of every head, common to its query, key and
value; ours are the units of the kinds ``qk`` and ``v``, dimensions that all heads of a layer share, so that heads keep
equal widths; heads are not rotated first unless a run asks for it. The same share of each kind is pruned, the one that
meets the budget. The learned gates are folded into the weights before the cut, so that only the cut changes the
network.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.errors import UsageError
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._scoring import Scores, rank_in_scopes
from xpruner.methods._weight_search import WeightRecipe, check_training, identity, loop_options, trainable_copy
from xpruner.plan.solver import plan_from_scores
from xpruner.runtime.devices import autocast
from xpruner.runtime.outputs import logits_of
from xpruner.surgery import apply
from xpruner.training.search import Loop, learn
from xpruner.units import Units
from xpruner.units.gates import expand_gates, gating

ATTENTION_PENALTY = 2e-4
MLP_PENALTY = 5e-5
GATE_LR = 5e-3
"""The paper trains gates for 50 epochs at the rate of the weights, 5e-4; ours have a few hundred updates, and ten times
that rate moves an unopposed gate from 1 to 0 in 200 of them."""


def check_gates(problem: Problem) -> None:
    """Raises UsageError where a gate cannot be folded into weights, or in fp16."""
    check_training(problem)
    for group in problem.units:
        layer: Any = problem.model.get_submodule(group.gates[0].path)
        foldable = group.gates[0].at in ("input", "output") and len(group.gates) == 1
        if not foldable or getattr(layer, "groups", 1) > 1:
            raise UsageError(
                f"vit_slim folds gates into the weights of one layer, which those of the {group.kind} units of "
                f"{group.module!r} do not allow; leave {group.kind!r} out of the kinds of unit."
            )


@register_method("vit_slim", ("qk", "v", "hidden"), changes_weights=True, check=check_gates)
def search(problem: Problem) -> Outcome:
    """Trains a copy of the model together with its gates, folds them into its weights, and cuts the smallest.

    Raises:
        UsageError: If the budget is out of reach.
    """
    problem.budget.target(problem.units)  # fail before training if the budget is out of reach
    options, model = loop_options(problem, "vit_slim"), trainable_copy(problem.model)
    device = next(model.parameters()).device
    gates = nn.ParameterList([torch.ones(group.size, device=device) for group in problem.units])
    by_key = dict(zip([group.key for group in problem.units], gates, strict=True))

    def loss(_progress: float, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        with autocast(problem.config.precision, device), gating(model, problem.units, by_key):
            logits = logits_of(model(images))
        task = F.cross_entropy(logits.float(), labels)
        return task + penalty(by_key, problem.units), {"task": task.item()}

    recipe = WeightRecipe(model, problem)
    recipe.optimizer.add_param_group({"params": list(gates), "lr": GATE_LR, "weight_decay": 0.0})
    learned = nn.ModuleDict({"model": model, "gates": gates})
    steps, same = problem.config.search.steps, identity(problem, gate_lr=GATE_LR)
    learn(Loop("vit_slim", learned, recipe.optimizer, loss, steps, same, before=recipe.before), problem.train, options)
    recipe.optimizer.zero_grad()
    fold(model, problem.units, by_key)
    plan = plan_from_scores(problem.units, ranked_by_kind(by_key, problem.units), problem.budget, "vit_slim")
    return Outcome(plan, model=apply(model, plan, inplace=True).eval())


def penalty(gates: Mapping[str, Tensor], units: Units) -> Tensor:
    """Returns the weighted sum of the magnitudes of all gates (units,)."""
    weights = {group.key: MLP_PENALTY if group.kind == "hidden" else ATTENTION_PENALTY for group in units}
    return torch.stack([weights[key] * gate.abs().sum() for key, gate in gates.items()]).sum()


def ranked_by_kind(gates: Mapping[str, Tensor], units: Units) -> Scores:
    """Returns for each unit the share of all units of its kind whose gates are no larger, so that kinds compare."""
    magnitudes = {key: gate.detach().abs().cpu() for key, gate in gates.items()}
    return rank_in_scopes(magnitudes, units, lambda group: group.kind)


@torch.no_grad()
def fold(model: nn.Module, units: Units, gates: Mapping[str, Tensor]) -> None:
    """Multiplies the weights by the gates (units,), in place; the model then computes what it computed with the gates.

    A gate on a layer's input multiplies its columns; one on its output multiplies its rows and its bias.
    """
    for key, values in gates.items():
        gate = units[key].gates[0]
        layer: Any = model.get_submodule(gate.path)
        if gate.at == "input":
            layer.weight.mul_(expand_gates(values, layer.weight, gate, 1))
            continue
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor.mul_(expand_gates(values, tensor, gate, 0))
