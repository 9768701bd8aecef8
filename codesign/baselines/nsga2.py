"""NSGA-II (Deb et al., 2002), by pymoo: a generation at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem as Space
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.problems.static import StaticProblem
from pymoo.termination.max_gen import MaximumGenerationTermination

from codesign.baselines.problem import Problem

_FOREVER = 10**9


class Nsga2:
    """NSGA-II on log cost and error, with pymoo's operators for whole numbers.

    A broken limit is a constraint: among such designs that of the least excess wins, which as no
    excess is known is none of them.

    Args:
      problem: what to solve.
      first: the first generation [n, d], whose size all have.
      seed: of what it draws.
    """

    def __init__(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        last = np.array(problem.choices) - 1
        self._space = Space(
            n_var=len(last), n_obj=2, n_ieq_constr=1, xl=np.zeros(len(last)), xu=last, vtype=int
        )
        # SBX and polynomial mutation with the indices that pymoo recommends for whole numbers.
        operators = {"vtype": float, "repair": RoundingRepair()}
        self._algorithm = NSGA2(
            pop_size=len(first),
            sampling=first,
            crossover=SBX(prob=1.0, eta=3.0, **operators),
            mutation=PM(prob=1.0, eta=3.0, **operators),
            eliminate_duplicates=True,
        )
        self._algorithm.setup(
            self._space, termination=MaximumGenerationTermination(_FOREVER), seed=seed
        )
        self._worst = np.log(problem.worst_cost) + 1
        self._asked: Any = None

    def ask(self) -> np.ndarray:
        """A generation; none where its operators find nothing new."""
        self._asked = self._algorithm.ask()
        if self._asked is None or not len(self._asked):
            return np.zeros((0, self._space.n_var), np.int64)
        designs: np.ndarray = np.asarray(self._asked.get("X")).round().astype(np.int64)
        return designs

    def tell(self, designs: np.ndarray, cost: np.ndarray, accuracy: np.ndarray) -> None:
        """The generation's results."""
        tried = np.isfinite(accuracy)
        log_cost = np.where(tried, np.log(np.where(tried, cost, 1.0)), self._worst)
        objectives = np.column_stack([log_cost, np.where(tried, 1 - accuracy, 1.0)])
        static = StaticProblem(
            self._space, F=objectives, G=np.where(tried, -1.0, 1.0)[:, None].astype(float)
        )
        Evaluator().eval(static, self._asked)
        self._algorithm.tell(infills=self._asked)
