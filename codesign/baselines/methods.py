"""The rivals by name, and the libraries that they need, imported for those that are asked for."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np

from codesign.baselines.problem import Method, Problem
from codesign.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Rival:
    """One of them.

    Attributes:
      name: on the command line and in files.
      method: its class, by its place.
      title: in tables and figures.
    """

    name: str
    method: str
    title: str


RIVALS = (
    Rival("random", "uniform.Uniform", "random search"),
    Rival("nsga2", "nsga2.Nsga2", "NSGA-II"),
    Rival("tpe", "tpe.Tpe", "TPE"),
    Rival("gp", "gaussian.Gaussian", "GP, expected HV improvement, known cost"),
)


def rival(name: str) -> Rival:
    """The rival of a name.

    Raises:
      UserError: there is none.
    """
    found = next((each for each in RIVALS if each.name == name), None)
    if found is None:
        raise UserError(f"no method '{name}'; {did_you_mean(name, [r.name for r in RIVALS])}")
    return found


def method_class(name: str) -> Any:
    """The class of a rival.

    Raises:
      UserError: a library that it needs is not installed.
    """
    asked = rival(name)
    module, _, cls = asked.method.partition(".")
    try:
        return getattr(importlib.import_module(f"codesign.baselines.{module}"), cls)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("codesign"):
            raise
        raise UserError(
            f"the method '{name}' needs {error.name}, which is not installed: pip install "
            "'codesign[baselines]'"
        ) from error


def make(name: str, problem: Problem, first: np.ndarray, seed: int) -> Method:
    """A rival at its start.

    Args:
      name: of it.
      problem: what to solve.
      first: designs [n, d] that it begins with.
      seed: of what it draws.

    Raises:
      UserError: a library that it needs is not installed.
    """
    method: Method = method_class(name)(problem, first, seed)
    return method
