"""NuWa's recipe for a model of chosen classes (Wei et al., CVPR 2026), on the units and the surgery of xpruner.

1. Self-knowledge purification: on training images of the chosen classes each MLP learns a score for every hidden unit
   and one number beta; the forward pass keeps the floor(e sigmoid(beta)) best of its e units, and the gradient passes
   straight through. The cross-entropy alone decides how many are pruned: those that harm these classes.
2. Every head's query-key and value-output maps are factorised by an SVD of their weights, [Wq bq]'[Wk bk] and
   [Wv bv]'Wo, and keep the leading dimensions, as many in every head of a layer.
3. The MLPs lose the units of the least mean activation until the budget holds, and fc2 becomes the least squares, by a
   pseudo-inverse, of what it put out on 128 calibration images.

Where the summary that this follows leaves things open, the authors' published code decides: scores start at 1 and beta
at 5, AdamW with rates 1e-3 and 0.1 and a weight decay of 0.05, one pass over the training images of the chosen classes;
the energy that the SVDs keep is a polynomial of the share that is to be pruned; MLPs are cut to one common width, save
those that purification left narrower; activations are those of the model whose heads are cut and whose MLPs are
purified. Our choices: batches of 8 images instead of 1, for the time it takes; widths are not rounded to multiples of
8, so that the budget is met as closely as by the others; activations are averaged over the calibration images alone.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from xpruner.calibration.moments import Batches, consumer_moments
from xpruner.errors import UsageError
from xpruner.methods.wdpruning import TopShare
from xpruner.plan.budget import MINIMA, Budget
from xpruner.plan.plan import Plan
from xpruner.runtime.devices import autocast
from xpruner.runtime.hooks import capture_inputs
from xpruner.runtime.modes import evaluating, frozen
from xpruner.runtime.outputs import logits_of
from xpruner.surgery import apply
from xpruner.training.options import LoopOptions
from xpruner.training.search import Loop, learn
from xpruner.units import UnitGroup, Units, find_units
from xpruner.units.gates import gating

KINDS = ["qk", "v", "hidden"]
CALIBRATION, BATCH = 128, 8
Kept = dict[str, list[int]]


@dataclass(frozen=True)
class Found:
    """What the recipe came to.

    Attributes:
        dense: The dense model with its heads factorised: another basis, the same outputs.
        plan: Which units of it are kept.
        cut: The dense model cut by the plan.
        refitted: The same with the weights of fc2 solved again.
    """

    dense: nn.Module
    plan: Plan
    cut: nn.Module
    refitted: nn.Module


def nuwa(
    dense: nn.Module, train: Dataset, calibration: Batches, budget: Budget, *, seed: int = 0, precision: str = "fp32"
) -> Found:
    """Derives a model by NuWa's recipe; its classifier remains that of all classes.

    Args:
        dense: A ViT of timm.
        train: Training images of the chosen classes, with the labels of all classes.
        calibration: Images of the chosen classes without augmentation; labels are not read.
        budget: What the pruned model may cost.
        seed: Of the order of the training images.
        precision: Of the forward passes.

    Raises:
        UsageError: If the heads alone, cut as in the recipe, leave the MLPs too little of the budget.
    """
    model = factorised(dense)
    units = find_units(model, KINDS)
    hidden = [group for group in units if group.kind == "hidden"]
    keep = purified(model, units, train, seed=seed, precision=precision)
    keep |= leading(dense, energy(1 - budget.target(units) / units.total(budget.resource)))
    spared = budget.target(units) - units.cost({**keep, **{group.key: [] for group in hidden}}, budget.resource)
    count = int(spared / getattr(hidden[0], budget.resource))
    if count < MINIMA["hidden"] * len(hidden):
        raise UsageError(f"The budget of {budget.amount:g} is nearly spent by the heads of NuWa alone; raise it.")
    widths = common_widths([len(keep[group.key]) for group in hidden], count)
    anchor_plan = Plan.of(units, keep)
    anchor = apply(model, anchor_plan)
    anchor_units = find_units(anchor, ["hidden"], units.input_size)
    moments = consumer_moments(anchor, anchor_units, calibration, precision)
    active = {
        group.key: moments[group.key].mean.abs().argsort(descending=True)[:width].tolist()
        for group, width in zip(hidden, widths, strict=True)
    }
    plan = Plan.of(anchor_units, active, "nuwa", budget)
    cut = apply(anchor, plan)
    refitted = refit(copy.deepcopy(cut), anchor, plan, anchor_units, calibration, precision)
    return Found(model, Plan.of(units, plan.after(anchor_plan).keep, "nuwa", budget), cut, refitted)


def energy(pruned: float) -> float:
    """Returns the share of the squared singular values that heads keep, from the pruned share of the cost."""
    return 1.0 - 0.03 * pruned + 0.14 * pruned**2 - 0.41 * pruned**3


class Purification(nn.Module):
    """The scores and the beta of every group of hidden units."""

    def __init__(self, groups: list[UnitGroup]):
        super().__init__()
        self.keys = [group.key for group in groups]
        self.scores = nn.ParameterList([nn.Parameter(torch.ones(group.size)) for group in groups])
        self.betas = nn.ParameterList([nn.Parameter(torch.tensor(5.0)) for _ in groups])

    def gates(self) -> dict[str, Tensor]:
        """Returns the (units,) gates of every group: 1 for the floor(units sigmoid(beta)) best scores, one at least."""
        rows = zip(self.keys, self.scores, self.betas, strict=True)
        return {key: TopShare.apply(s, b, max(1, int(len(s) * torch.sigmoid(b).item()))) for key, s, b in rows}


def purified(model: nn.Module, units: Units, train: Dataset, *, seed: int, precision: str) -> Kept:
    """Returns the hidden units that are left after one pass over the training images."""
    learned = Purification([group for group in units if group.kind == "hidden"])
    rates = [{"params": learned.scores, "lr": 1e-3}, {"params": learned.betas, "lr": 0.1}]
    optimizer = torch.optim.AdamW(rates, weight_decay=0.05)

    def loss(_progress: float, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        with autocast(precision, images.device), gating(model, units, learned.gates()):
            return F.cross_entropy(logits_of(model(images)).float(), labels), {}

    with frozen(model):
        loop = Loop("purifying", learned, optimizer, loss, len(train) // BATCH)
        learn(loop, train, LoopOptions(BATCH, seed=seed, precision=precision))
    return {key: gates.nonzero()[:, 0].tolist() for key, gates in learned.gates().items()}


@torch.no_grad()
def factorised(model: nn.Module) -> nn.Module:
    """Returns a copy whose heads' dimensions are sorted by the singular values of their weights, and compute the same.

    With Q = [Wq bq] and K = [Wk bk] of a head, Q'K = U S V'; its queries become sqrt(S) U' and its keys sqrt(S) V'.
    Likewise [Wv bv]'Wo for values and output.
    """
    model = copy.deepcopy(model)
    for attention in attentions(model).values():
        heads = attention.num_heads
        (q, k, v), o = by_head(attention)
        pairs = [sorted_factors(q.mT @ k, q.shape[1]), sorted_factors(v.mT @ o, v.shape[1])]
        stacked = torch.stack([*pairs[0], pairs[1][0]]).flatten(0, 2)
        attention.qkv.weight.copy_(stacked[:, : attention.qkv.in_features])
        if attention.qkv.bias is not None:
            attention.qkv.bias.copy_(stacked[:, -1])
        attention.proj.weight.copy_(pairs[1][1].reshape(heads * o.shape[1], -1).T)
    return model


def leading(model: nn.Module, share: float) -> Kept:
    """Returns as many leading dimensions of a layer's heads as hold this share of their squared singular values."""
    keep = {}
    for path, attention in attentions(model).items():
        (q, k, v), o = by_head(attention)
        for kind, product in (("qk", q.mT @ k), ("v", v.mT @ o)):
            squares = torch.linalg.svdvals(product)[:, : q.shape[1]].square()
            held = (squares.cumsum(1) / squares.sum(1, keepdim=True)).mean(0)
            keep[f"{path}:{kind}"] = list(range(int((held < share).sum()) + 1))
    return keep


def attentions(model: nn.Module) -> dict[str, Any]:
    """Returns the attention modules by path."""
    return {path: module for path, module in model.named_modules() if hasattr(module, "qkv")}


def by_head(attention: Any) -> tuple[Tensor, Tensor]:
    """Returns [Wq bq], [Wk bk], [Wv bv] (3, heads, width, inputs + 1) and Wo (heads, width, outputs), in float64."""
    weight, bias = attention.qkv.weight.detach().double(), attention.qkv.bias
    if bias is not None:
        weight = torch.cat([weight, bias.detach().double()[:, None]], 1)
    output = attention.proj.weight.detach().double().T
    return weight.unflatten(0, (3, attention.num_heads, -1)), output.unflatten(0, (attention.num_heads, -1))


def sorted_factors(product: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Returns A, B (heads, width, ...) with A'B the best approximation of (heads, ..., ...), the largest part first."""
    u, s, vh = torch.linalg.svd(product, full_matrices=False)
    root = s[:, :width, None].sqrt()
    return root * u.mT[:, :width], root * vh[:, :width]


def common_widths(counts: list[int], total: int) -> list[int]:
    """Returns widths that sum to ``total``: the same one for all, save for what never had as much."""
    widths = [0] * len(counts)
    left = min(total, sum(counts))
    for place, number in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        widths[number] = min(counts[number], left // (len(counts) - place))
        left -= widths[number]
    return widths


@torch.no_grad()
def refit(
    pruned: nn.Module, anchor: nn.Module, plan: Plan, units: Units, batches: Batches, precision: str
) -> nn.Module:
    """Solves every fc2 again, in place: W' = W X' pinv(X_S)' for the anchor's inputs X and the kept ones X_S.

    Args:
        pruned: ``apply(anchor, plan)``.
        anchor: The model whose outputs of fc2 are aimed at.
        plan: Of hidden units alone.
        units: The anchor's hidden units.
        batches: Of which the first 128 images are taken.
        precision: Of the forward pass.

    Returns:
        The pruned model.
    """
    images = torch.cat([images for images, _ in batches])[:CALIBRATION]
    with evaluating(anchor), capture_inputs(anchor, units.of_consumers()) as inputs, autocast(precision, images.device):
        anchor(images)
    for path, (group,) in units.of_consumers().items():
        x = inputs[path].double().flatten(0, -2)
        source: Any = anchor.get_submodule(path)
        target: Any = pruned.get_submodule(path)
        solved = torch.linalg.pinv(x[:, plan.keep[group.key]]) @ (x @ source.weight.double().T)
        target.weight.copy_(solved.T)
    return pruned
