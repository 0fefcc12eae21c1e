"""The plan, the budget, and the solver that turns scores into a plan."""

from xpruner.plan.budget import Budget
from xpruner.plan.plan import Plan
from xpruner.plan.solver import plan_from_scores

__all__ = ["Budget", "Plan", "plan_from_scores"]
