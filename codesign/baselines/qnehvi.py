"""Noisy expected hypervolume improvement (Daulton et al., 2021), by BoTorch, under known cost."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.models.deterministic import GenericDeterministicModel
from botorch.models.model import ModelList
from botorch.models.transforms import Standardize
from gpytorch.mlls import ExactMarginalLogLikelihood

from codesign.baselines.problem import Problem, Told

# Designs of a pool that the acquisition looks at, drawn evenly, beside the neighbours of the tried.
_LOOKED_AT = 2048
_AT_ONCE = 256


class Qnehvi:
    """BoTorch's process of the accuracy, its acquisition over a pool; the cost is a known function.

    Args:
      problem: what to solve.
      first: designs [n, d] to begin with, all asked for at once; then it is one at a time.
      seed: of what it draws.
    """

    def __init__(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        self._problem, self._first, self._seed = problem, first, seed
        self._told = Told(len(problem.choices))

    def ask(self) -> np.ndarray:
        """The first designs, then that of the largest acquisition."""
        told, problem = self._told, self._problem
        if not len(told.cost):
            return self._first
        rng = np.random.default_rng([self._seed, len(told.cost)])
        pool = problem.draw(rng, _LOOKED_AT, told.keys)
        if not len(pool):
            return pool
        torch.manual_seed(self._seed + len(told.cost))
        # Inputs carry the negative log cost behind the design, where the known objective reads it.
        x, new = (
            torch.as_tensor(np.column_stack([problem.unit(d), -np.log(c)]))
            for d, c in ((told.designs, told.cost), (pool, problem.cost(pool)))
        )
        y = torch.as_tensor(told.accuracy)[:, None]
        process = SingleTaskGP(x[:, :-1], y, outcome_transform=Standardize(m=1))
        with warnings.catch_warnings():  # a fit that ends early is tried again by BoTorch itself
            warnings.simplefilter("ignore")
            fit_gpytorch_mll(ExactMarginalLogLikelihood(process.likelihood, process))
            model = ModelList(GenericDeterministicModel(lambda x: x[..., -1:]), _OfDesign(process))
            acquisition = qLogNoisyExpectedHypervolumeImprovement(
                model,
                ref_point=[-float(np.log(problem.worst_cost)), problem.worst_accuracy],
                X_baseline=x,
                cache_root=False,
            )
            with torch.no_grad():
                gain = torch.cat([acquisition(part[:, None]) for part in new.split(_AT_ONCE)])
        return pool[[int(gain.argmax())]]

    def tell(self, designs: np.ndarray, cost: np.ndarray, accuracy: np.ndarray) -> None:
        """More to fit."""
        self._told.add(designs, cost, accuracy)


class _OfDesign(ModelListGP):
    """A process that passes over the cost behind the design."""

    def posterior(self, X, *args, **more):  # type: ignore[no-untyped-def]
        return super().posterior(X[..., :-1], *args, **more)
