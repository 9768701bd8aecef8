"""Points, where a GEMM meets an accelerator, and what an oracle says of them, as arrays [N]."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from codesign.accelerator import ON_CHIP, Accelerator
from codesign.cost.technology import Technology
from codesign.oracle.interface import Constants, Point
from codesign.oracle.units import technology_of
from codesign.surrogate.models import Inputs, Kind, Prediction, Surrogate, inputs

FACTORS = ("m", "k", "n", *ON_CHIP)


class Points(NamedTuple):
    """GEMMs on accelerators, in the order of a surrogate's arguments; every leaf [N].

    Attributes:
      m, k, n: dimensions of the GEMM [m, k] x [k, n].
      accelerator: where it runs.
      tech: what an event costs there; its lane_pj is not known and not used.
    """

    m: Any
    k: Any
    n: Any
    accelerator: Accelerator
    tech: Technology

    @classmethod
    def of(cls, points: Sequence[Point]) -> Points:
        """Oracle's points as arrays."""
        column = lambda values: np.array(list(values), np.float32)  # noqa: E731
        chip = {
            f.name: column(getattr(p.accelerator, f.name) for p in points)
            for f in dataclasses.fields(Accelerator)
        }
        constants = {
            f.name: column(getattr(p.constants, f.name) for p in points)
            for f in dataclasses.fields(Constants)
        }
        return cls(
            m=column(p.m for p in points),
            k=column(p.k for p in points),
            n=column(p.n for p in points),
            accelerator=Accelerator(**chip),
            tech=technology_of(constants),
        )

    @property
    def macs(self) -> np.ndarray:
        """Multiply-accumulates, [N]."""
        return np.asarray(self.m, float) * self.k * self.n

    @property
    def factors(self) -> np.ndarray:
        """What can be varied one at a time, [N, FACTORS]."""
        chip = [getattr(self.accelerator, name) for name in FACTORS[3:]]
        return np.stack([self.m, self.k, self.n, *chip], axis=-1)


class Samples(NamedTuple):
    """Points and their true cost; every leaf [N].

    Attributes:
      points: where.
      truth: cycles and dynamic energy, as an oracle gives them.
    """

    points: Points
    truth: Prediction

    @property
    def size(self) -> int:
        """N."""
        return len(self.truth.cycles)


def take(tree: Any, rows: np.ndarray) -> Any:
    """The rows of every leaf [N, ...], as NumPy arrays."""
    return jax.tree.map(lambda x: np.asarray(x)[rows], tree)


@jax.jit
def _predict(surrogate: Any, points: Points) -> Prediction:
    return jax.vmap(surrogate)(*points)


def predict(surrogate: Surrogate, points: Points) -> Prediction:
    """The surrogate's costs [N] of points [N], as NumPy arrays."""
    return jax.tree.map(np.asarray, _predict(surrogate, points))


@functools.partial(jax.jit, static_argnames="kind")
def _observe(kind: Kind, points: Points) -> Inputs:
    return jax.vmap(functools.partial(inputs, kind))(*points)


def observe(kind: Kind, points: Points) -> Inputs:
    """What an ensemble of this kind sees of points [N]: once for all ensembles; NumPy arrays."""
    return jax.tree.map(np.asarray, _observe(kind, points))
