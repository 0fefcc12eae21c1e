"""HVT-style: no unit is scored or removed; tokens are max-pooled between blocks (Pan et al., ICCV 2021).

Kept of the paper: max pooling along the sequence of tokens with kernel 3 and stride 2 (without padding: 196 tokens
become 97, which gives the published 2.40 G of HVT-S-1), a new learned position embedding after every pool, no class
token, and a head that reads the mean of the tokens. Adapted: the paper trains from scratch; here the dense weights are
reused, without the prefix tokens, the new embeddings start at zero, and the network is trained for ``search.steps``
updates by the recipe of fine-tuning, as part of the search [our choice].

The budget determines where the pools stand [our choice]: of all sets of at most four places between blocks that cost at
most the budget and miss it by no more than 1 %, the one with the fewest pools, then the closest. If there is none, the
last pool leaves an exact number of tokens (an adaptive max pool), and if that is not enough, a pool may stand before
the first block.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from xpruner.errors import UsageError
from xpruner.measure.macs import trace
from xpruner.methods._problem import Outcome, Problem
from xpruner.methods._registry import register_method
from xpruner.plan.plan import Plan
from xpruner.training.finetune import finetune
from xpruner.training.options import LoopOptions

log = logging.getLogger("xpruner")

KERNEL, STRIDE = 3, 2
MOST_POOLS = 4
LR = 2e-4
"""Peak rate of the search's training: pools change what every later block sees, and 1e-4 adapts to it more slowly."""
NEAR = 0.01
"""Largest share of the budget that may be left unspent."""

Pools = Mapping[int, int]
"""Number of tokens that a pool leaves, by the number of the block that it stands before; ascending."""


def check_tokens(problem: Problem) -> None:
    """Raises UsageError for a model whose tokens cannot be pooled, or a budget that pooling cannot meet."""
    model: Any = problem.model
    if problem.budget.resource != "macs":
        raise UsageError(f"HVT removes no parameters but the budget is in {problem.budget.resource}; give one in MACs.")
    if type(model) is not VisionTransformer or model.global_pool not in ("token", "avg") or _shape(model)[0] < KERNEL:
        raise UsageError(
            f"HVT cannot pool the tokens of this {type(model).__name__}; it takes a timm VisionTransformer whose head "
            f"reads a class token or the mean of {KERNEL} tokens or more: choose another method."
        )


@register_method("hvt", saveable=False, changes_weights=True, check=check_tokens)
def search(problem: Problem) -> Outcome:
    """Places the pools and trains the pooled network; the plan removes nothing.

    Raises:
        UsageError: If no pools come close enough to the budget.
    """
    size, target = problem.units.input_size, problem.budget.target(problem.units)
    pools = choose_pools(cost_of_pools(problem.model, size), *_shape(problem.model), target)
    log.info("tokens are pooled: %s", ", ".join(f"{n} from block {place} on" for place, n in pools.items()))
    model = PooledViT(problem.model, pools).requires_grad_(True)
    config = replace(problem.config.finetune, steps=problem.config.search.steps, lr=LR)
    options = LoopOptions.of(problem.config, problem.state_dir and problem.state_dir / "hvt", problem.on_step)
    with _device_restored(problem.model):
        finetune(
            model, problem.model if config.distill > 0 else None, problem.train, config,
            replace(options, seed=options.seed + 1),
        )  # fmt: skip
    figures = {f"tokens from block {place} on": float(length) for place, length in pools.items()}
    return Outcome(Plan.of(problem.units, {}, "hvt", problem.budget), figures=figures, model=model)


class TokenPool(nn.Module):
    """Max-pools a sequence of tokens and adds a position embedding of its own, zero at the start.

    Args:
        before: Tokens that come in.
        after: Tokens that go out; kernel 3 and stride 2 where they leave that many, else an adaptive pool.
        like: A parameter with the width as its last dimension, and the device and type to use.
    """

    def __init__(self, before: int, after: int, like: Tensor):
        super().__init__()
        self.after, self.strided = after, after == pooled(before)
        self.pos_embed = nn.Parameter(torch.zeros(1, after, like.shape[-1], device=like.device, dtype=like.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (batch, after, dim) for x (batch, before, dim)."""
        x = x.transpose(1, 2)
        x = F.max_pool1d(x, KERNEL, STRIDE) if self.strided else F.adaptive_max_pool1d(x, self.after)
        return x.transpose(1, 2) + self.pos_embed


class PooledViT(VisionTransformer):
    """A copy of a VisionTransformer without prefix tokens, with pools between its blocks and the mean at its head.

    The blocks keep their names, so that every weight is found where it was; a pool before block 4 is ``blocks.pool4``.

    Args:
        dense: Model whose weights are reused; it is not changed.
        pools: Where the pools stand and how many tokens each leaves.
    """

    def __init__(self, dense: nn.Module, pools: Pools):
        nn.Module.__init__(self)
        self.__dict__.update(copy.deepcopy(dense).__dict__)
        if self.pos_embed is not None and not self.no_embed_class:
            positions = self.pos_embed.detach()[:, self.num_prefix_tokens :].clone()
            self.pos_embed = nn.Parameter(positions, self.pos_embed.requires_grad)
        self.cls_token = self.reg_token = None
        self.has_class_token, self.num_prefix_tokens, self.num_reg_tokens = False, 0, 0
        self.global_pool = "avg"
        self.add_module("patch_drop", nn.Identity())  # a pool needs every token
        self.blocks = self._with_pools(pools)

    def _with_pools(self, pools: Pools) -> nn.Sequential:
        sequence, tokens = nn.Sequential(), self.patch_embed.num_patches
        for number, block in enumerate(self.blocks):
            if number in pools:
                sequence.add_module(f"pool{number}", TokenPool(tokens, pools[number], next(block.parameters())))
                tokens = pools[number]
            sequence.add_module(str(number), block)
        return sequence

    def no_weight_decay(self) -> set[str]:
        """Returns the names of the parameters that are not decayed: the position embeddings."""
        return {name for name, _ in self.named_parameters() if name.endswith("pos_embed")}


def pooled(tokens: int) -> int:
    """Returns how many tokens kernel 3 and stride 2 leave, without padding; 0 where there are fewer than 3."""
    return max(0, (tokens - KERNEL) // STRIDE + 1)


def cost_of_pools(model: nn.Module, size: tuple[int, int, int]) -> Callable[[Pools], float]:
    """Returns the function that gives the MACs of the pooled network.

    A block's MACs at n tokens are a n + b n^2, its layers and its attention; two counts by torch's counter give a and
    b.

    Args:
        model: A VisionTransformer.
        size: (channels, height, width) of the images.
    """
    tokens, depth = _shape(model)
    fewer = tokens // 2
    all_tokens, half = trace(PooledViT(model, {}), size), trace(PooledViT(model, {0: fewer}), size)
    blocks = []
    for number in range(depth):
        each, each_of_fewer = (t.macs[f"blocks.{number}"] / n for t, n in ((all_tokens, tokens), (half, fewer)))
        attention = (each - each_of_fewer) / (tokens - fewer)
        blocks.append((each - attention * tokens, attention))
    rest = all_tokens.total - sum(all_tokens.macs[f"blocks.{number}"] for number in range(depth))

    def cost(pools: Pools) -> float:
        total, n = rest, tokens
        for number, (layers, attention) in enumerate(blocks):
            n = pools.get(number, n)
            total += layers * n + attention * n**2
        return total

    return cost


def choose_pools(cost: Callable[[Pools], float], tokens: int, depth: int, target: float) -> Pools:
    """Returns the pools whose cost is at most the target and misses it by no more than 1 %.

    Args:
        cost: The MACs of the network with some pools.
        tokens: Before the first pool.
        depth: Blocks.
        target: MACs.

    Raises:
        UsageError: If no pools come that close.
    """
    nearest: Pools = {}
    for places, exact in ((range(1, depth), False), (range(1, depth), True), (range(depth), True)):
        for count in range(MOST_POOLS + 1):
            candidates = [nearest, *candidate_pools(tokens, places, count, exact)]
            nearest = max(candidates, key=lambda pools: (cost(pools) <= target, cost(pools)))
            if (1 - NEAR) * target <= cost(nearest) <= target:
                return nearest
    raise UsageError(
        f"HVT's token pools come no closer to {target:,.0f} MACs than {cost(nearest):,.0f}; ask for that budget, "
        "or choose another method."
    )


def candidate_pools(tokens: int, places: range, count: int, exact: bool) -> Iterator[Pools]:
    """Yields every way to place ``count`` pools of kernel 3 and stride 2.

    Args:
        tokens: Before the first pool.
        places: Numbers of the blocks that a pool may stand before.
        count: Pools.
        exact: The last pool leaves any number of tokens instead.
    """
    for chosen in combinations(places, count):
        lengths = [tokens]
        for _ in chosen:
            lengths.append(pooled(lengths[-1]))
        if not exact and lengths[-1]:
            yield dict(zip(chosen, lengths[1:], strict=True))
        elif exact and chosen:
            for last in range(1, lengths[-2]):
                yield dict(zip(chosen, [*lengths[1:-1], last], strict=True))


@contextmanager
def _device_restored(model: nn.Module) -> Iterator[None]:
    """Moves a model back to its device if the block moved it."""
    device = next(model.parameters()).device
    try:
        yield
    finally:
        model.to(device)


def _shape(model: Any) -> tuple[int, int]:
    return model.patch_embed.num_patches, len(model.blocks)
