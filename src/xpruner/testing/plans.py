"""Plans at random, which an adapter has to meet whatever they keep."""

import torch

from xpruner.plan.budget import minimum
from xpruner.plan.plan import Plan
from xpruner.units import Units


def random_plan(units: Units, seed: int = 0) -> Plan:
    """Returns a plan that keeps half of every group, at least its minimum, and of the blocks all but one.

    Args:
        units: The groups.
        seed: Of which units are kept.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = [group.key for group in units if group.kind == "block"]
    skipped = blocks[int(torch.randint(len(blocks), (), generator=generator))] if blocks else None
    keep = {}
    for group in units:
        count = max((group.size + 1) // 2, minimum(group))
        if group.kind == "block":
            count = int(group.key != skipped)
        keep[group.key] = torch.randperm(group.size, generator=generator)[:count].tolist()
    return Plan.of(units, keep, "random")
