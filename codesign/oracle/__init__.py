"""Oracles: the discrete truth that the differentiable cost model is held against."""
