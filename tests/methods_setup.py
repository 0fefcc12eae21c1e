"""What the tests of the methods share: what xpruner.testing holds, a deep model, and a look at what was kept."""

from collections.abc import Callable, Hashable

import torch
from tiny_models import VIT, Noise

from xpruner.methods._scoring import Scores
from xpruner.plan.budget import minimum
from xpruner.plan.plan import Plan
from xpruner.testing import planted as planted
from xpruner.testing import tiny_problem as tiny_problem
from xpruner.units import UnitGroup, Units

DEEP = VIT | {"depth": 12}
"""Deep enough that token pools at some of its blocks come close to any budget."""


def batches() -> list:
    """Returns the 40 images of noise as one batch."""
    data = Noise(40)
    return [torch.utils.data.default_collate([data[i] for i in range(40)])]


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
