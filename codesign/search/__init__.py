"""Search: limits and targets, the augmented Lagrangian, exact choices, Pareto sets."""
