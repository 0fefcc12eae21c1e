"""What a plan that was read from a file has to hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from xpruner.config.typed import typed


@dataclass
class _Asked:
    amount: float
    resource: Literal["macs", "params"]
    round_to: dict[str, int]


@dataclass
class _Cost:
    macs_dense: float
    macs_pruned: float
    params_dense: float
    params_pruned: float


def check_kept(keep: Mapping[str, list[int]], sizes: Mapping[str, int]) -> None:
    """Raises ValueError, with place and value, where the kept indices of a plan that was read contradict its sizes."""
    if keep.keys() != sizes.keys():
        raise ValueError(f"keep and sizes differ in {', '.join(sorted(keep.keys() ^ sizes.keys()))}")
    for key, size in sizes.items():
        _check_indices(key, keep[key], size)


def check_price(budget: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
    """Raises ValueError, with place and value, where a plan that was read has no possible budget or cost."""
    if budget:
        asked = typed(_Asked, budget, "budget", whole=True)
        if asked.amount <= 0 or any(multiple < 1 for multiple in asked.round_to.values()):
            raise ValueError(f"budget is {budget}, but an amount must be above 0 and a multiple 1 or more")
    if cost:
        found = typed(_Cost, cost, "cost", whole=True)
        if not (0 < found.macs_pruned <= found.macs_dense and 0 < found.params_pruned <= found.params_dense):
            raise ValueError(f"cost is {cost}, but must be above 0 and at most that of the dense model")


def _check_indices(key: str, indices: list[int], size: int) -> None:
    if size < 1:
        raise ValueError(f"sizes.{key} is {size}, but must be 1 or more")
    for index in indices:
        if not 0 <= index < size:
            raise ValueError(f"keep.{key} holds {index}, but must hold numbers from 0 to {size - 1}")
    for before, after in pairwise(indices):
        if after <= before:
            raise ValueError(f"keep.{key} holds {after} behind {before}, but must ascend, each number once")
