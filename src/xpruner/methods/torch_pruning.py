"""DepGraph (Fang et al., CVPR 2023), by the authors' own package Torch-Pruning: an independent peer.

Kept: the package traces the model, groups what must be cut together, scores by its Taylor importance and chooses what
to prune, configured as in its examples for timm's ViTs: the same ratio for the embedding channels and for the hidden
units and heads of every layer. Adapted: the package knows ratios and no budget, so its ratio is bisected until the
budget lies between two; units pruned at one ratio and kept at the other are then kept in turn until the budget is
spent. Only the choice is the package's: the surgery is ours, so that the pruned model is a stock one.
"""

import warnings
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from xpruner.errors import UsageError
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.methods._scoring import Scores
from xpruner.methods.isomorphic import copy_with_gradients
from xpruner.plan.solver import plan_from_scores
from xpruner.units.adapters.timm.vit import is_identity

KINDS = ("head", "hidden", "embed")
HALVINGS = 6
"""The two ratios between which the budget lies are 1 / 64 apart."""
Removed = dict[str, Tensor]
"""For each group's key which of its (units,) are removed."""


def check_package(problem: Problem) -> None:
    """Raises UsageError without the package, or for a model or kinds that it cannot prune."""
    _package()
    model = problem.model
    strange = next((group.kind for group in problem.units if group.kind not in KINDS), None)
    if strange:
        raise UsageError(f"The method torch_pruning does not support units of the kind {strange!r}; leave them out.")
    attentions = [model.get_submodule(group.module) for group in problem.units if group.kind == "head"]
    if not (isinstance(model, VisionTransformer) and all(map(_is_plain, attentions))):
        raise UsageError(
            f"The package torch-pruning cannot prune this {type(model).__name__}: it supports timm's VisionTransformer "
            "where attention has neither tables of relative positions nor norms of queries; take the method isomorphic."
        )


@register_method("torch_pruning", KINDS, check=check_package)
def search(problem: Problem) -> Outcome:
    """Bisects the package's ratio and fills the rest of the budget."""
    package = _package()
    model = copy_with_gradients(problem)
    target = problem.budget.target(problem.units)
    scores = {group.key: torch.ones(group.size, dtype=torch.double) for group in problem.units}
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        removed = removed_at(package, model, problem, ratio)
        _note(scores, removed, ratio)
        keep = {key: (~gone).nonzero()[:, 0].tolist() for key, gone in removed.items()}
        if problem.units.cost(keep, problem.budget.resource) > target:
            low = ratio
        else:
            high = ratio
    return Outcome(plan_from_scores(problem.units, scores, problem.budget, f"torch-pruning {version('torch-pruning')}"))


def _note(scores: Scores, removed: Removed, ratio: float) -> None:
    """Lowers the scores of removed units to the ratio; a unit's score is the least ratio at which it was removed."""
    for key, gone in removed.items():
        scores[key][gone] = scores[key][gone].clamp(max=ratio)


def removed_at(package: ModuleType, model: nn.Module, problem: Problem, ratio: float) -> Removed:
    """Returns what the package would remove at a ratio; the model itself is not cut.

    Args:
        package: Torch-Pruning.
        model: A copy of the problem's model with gradients.
        problem: Whose units are asked for.
        ratio: Share of the channels, hidden units and heads of every layer.
    """
    removed = {group.key: torch.zeros(group.size, dtype=torch.bool) for group in problem.units}
    readers = {id(model.get_submodule(group.gates[0].path)): group for group in problem.units}
    pruner = _pruner(package, model, problem.units.input_size, ratio)
    for coupled in pruner.step(interactive=True):
        for dependency, channels in coupled:
            group = readers.get(id(dependency.target.module))
            if group and (group.consumer is None or pruner.DG.is_in_channel_pruning_fn(dependency.handler)):
                removed[group.key] |= torch.isin(group.channels, torch.tensor(channels)).all(1)
    return removed


def _pruner(package: ModuleType, model: Any, size: tuple[int, int, int], ratio: float) -> Any:
    attentions: list[Any] = [module for module in model.modules() if isinstance(module, Attention)]
    for attention in attentions:
        attention.fused_attn = False  # the package cannot trace the fused kernel
    classifiers = model.get_classifier()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unwrapped parameters")  # tokens and positions, which it cuts correctly
        return package.pruner.BasePruner(
            model, torch.zeros(1, *size, device=next(model.parameters()).device),
            importance=package.importance.GroupTaylorImportance(), pruning_ratio=ratio, head_pruning_ratio=ratio,
            num_heads={each.qkv: each.num_heads for each in attentions}, prune_num_heads=True, prune_head_dims=False,
            ignored_layers=list(classifiers) if isinstance(classifiers, tuple) else [classifiers],
            in_channel_groups={}, out_channel_groups={},  # its mutable defaults would carry state over to the next call
        )  # fmt: skip


def _package() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise UsageError("The method torch_pruning needs that package; pip install 'xpruner[bench]'.") from error
    return torch_pruning


def _is_plain(attention: Any) -> bool:
    return type(attention) is Attention and is_identity(attention.q_norm)
