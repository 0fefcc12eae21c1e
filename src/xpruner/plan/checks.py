"""What a plan that was read from a file has to hold."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from xpruner.config.typed import typed

if TYPE_CHECKING:
    from xpruner.plan.plan import Plan


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


def check_read(plan: "Plan") -> None:
    """Raises ValueError, with place and value, where a plan that was read contradicts itself."""
    if plan.keep.keys() != plan.sizes.keys():
        raise ValueError(f"keep and sizes differ in {', '.join(sorted(plan.keep.keys() ^ plan.sizes.keys()))}")
    for key, size in plan.sizes.items():
        _check_indices(key, plan.keep[key], size)
    if plan.budget:
        asked = typed(_Asked, plan.budget, "budget", whole=True)
        if asked.amount <= 0 or any(multiple < 1 for multiple in asked.round_to.values()):
            raise ValueError(f"budget is {plan.budget}, but an amount must be above 0 and a multiple 1 or more")
    if plan.cost:
        cost = typed(_Cost, plan.cost, "cost", whole=True)
        if not (0 < cost.macs_pruned <= cost.macs_dense and 0 < cost.params_pruned <= cost.params_dense):
            raise ValueError(f"cost is {plan.cost}, but must be above 0 and at most that of the dense model")


def _check_indices(key: str, indices: list[int], size: int) -> None:
    if size < 1:
        raise ValueError(f"sizes.{key} is {size}, but must be 1 or more")
    for index in indices:
        if not 0 <= index < size:
            raise ValueError(f"keep.{key} holds {index}, but must hold numbers from 0 to {size - 1}")
    for before, after in pairwise(indices):
        if after <= before:
            raise ValueError(f"keep.{key} holds {after} behind {before}, but must ascend, each number once")
