"""The plan, the budget, and the solver that turns scores into a plan."""
