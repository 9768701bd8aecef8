"""The multi-objective tree-structured Parzen estimator (Ozaki et al., 2022), by Optuna."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna

from codesign.baselines.problem import Problem

_BROKEN = "limits"


class Tpe:
    """TPE on log cost and error; Optuna's defaults but for the number of first designs.

    Args:
      problem: what to solve.
      first: designs [n, d] to begin with, all asked for at once; then it is one at a time.
      seed: of what it draws.
    """

    def __init__(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._first, self._worst = first, float(np.log(problem.worst_cost)) + 1
        self._kinds: Any = {
            f"{i:03d}": optuna.distributions.IntDistribution(0, n - 1)
            for i, n in enumerate(problem.choices)
        }
        sampler = optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=len(first),
        )
        self._study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        self._trials: list[optuna.Trial] = []

    def ask(self) -> np.ndarray:
        """The first designs, then the next one."""
        number = 1
        if not self._study.trials:
            for design in self._first:
                values = zip(self._kinds, design.tolist(), strict=True)
                self._study.enqueue_trial(dict(values))
            number = len(self._first)
        self._trials = [self._study.ask(self._kinds) for _ in range(number)]
        rows = [[trial.params[name] for name in self._kinds] for trial in self._trials]
        return np.array(rows, np.int64)

    def tell(self, designs: np.ndarray, cost: np.ndarray, accuracy: np.ndarray) -> None:
        """Their results; a broken limit is a constraint that is not met."""
        for trial, c, a in zip(self._trials, cost, accuracy, strict=True):
            tried = bool(np.isfinite(a))
            trial.set_constraint(_BROKEN, -1.0 if tried else 1.0)
            values = [float(np.log(c)), 1 - float(a)] if tried else [self._worst, 1.0]
            self._study.tell(trial, values)
