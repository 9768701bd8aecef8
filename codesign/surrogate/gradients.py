"""Whether a surrogate's slopes are the oracle's: along pairs of points that differ in one factor.

From one point of a pair to the other, the truth changes by log(y1 / y0). A surrogate says
the same in two ways: by its own values there, and by its derivative on the path, which is
what a search follows. A derivative is that of the inputs, taken once for all surrogates of a
kind, carried on through an ensemble.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.cost.execution import Execution
from codesign.cost.mapper import gemm_costs
from codesign.surrogate.models import Ensemble, Inputs, Kind, Prediction, inputs_given
from codesign.surrogate.points import FACTORS, Points, take

Array = jax.Array

# Truths that change less have no direction worth agreeing with.
FLAT = 0.01
# Places on the path from one point to the other at which derivatives are averaged.
PATH_NODES = 8


class Pairs(NamedTuple):
    """Pairs of rows that differ in one factor only, [P] each.

    Attributes:
      first, second: rows; the factor is larger in the second.
      factor: index into FACTORS.
    """

    first: np.ndarray
    second: np.ndarray
    factor: np.ndarray


def one_factor_pairs(points: Points, most: float = 2.0) -> Pairs:
    """All pairs whose one differing factor is next to the other's and at most `most` times it."""
    values = points.factors
    found: list[tuple[int, int, int]] = []
    for f in range(len(FACTORS)):
        others = np.delete(values, f, axis=1)
        order = np.lexsort((values[:, f], *others.T))
        for i, j in itertools.pairwise(order):
            low, high = values[i, f], values[j, f]
            if low < high <= most * low and np.array_equal(others[i], others[j]):
                found.append((int(i), int(j), f))
    columns = np.array(found, int).reshape(-1, 3).T
    return Pairs(*columns)


class PathInputs(NamedTuple):
    """What ensembles of one kind see on the path over each pair; leaves [P, T, ...].

    Attributes:
      seen: inputs at T shares of the path: half of it first, then PATH_NODES even ones.
      moved: derivatives of features and base by the share.
    """

    seen: Inputs
    moved: Inputs


class _Moving(NamedTuple):
    """Places on the path over a pair, and their derivatives by the share; leaves [P T]."""

    at: Points
    moved: Points


@jax.jit
def _places(start: Points, end: Points, shares: Array) -> _Moving:
    def at(start: Points, end: Points, share: Array) -> _Moving:
        def place(share: Array) -> Points:
            moving = lambda a, b: a * (b / a) ** share  # noqa: E731
            fixed = lambda a, b: a + share * (b - a)  # noqa: E731
            m, k, n, chip = jax.tree.map(moving, start[:4], end[:4])
            return Points(m, k, n, chip, jax.tree.map(fixed, start.tech, end.tech))

        return _Moving(*jax.jvp(place, (share,), (jnp.ones_like(share),)))

    over_shares = jax.vmap(at, in_axes=(None, None, 0))
    found = jax.vmap(over_shares, in_axes=(0, 0, None))(start, end, shares)
    return jax.tree.map(lambda x: x.reshape(-1), found)


@jax.jit
def _costs(places: _Moving) -> tuple[Execution, Execution]:
    return jax.vmap(lambda p: jax.jvp(gemm_costs, p.at, p.moved))(places)


@jax.jit
def _seen(places: _Moving, costs: tuple[Execution, Execution] | None) -> tuple[Inputs, Inputs]:
    def see(places: _Moving, costs: tuple[Execution, Execution] | None) -> tuple[Inputs, Inputs]:
        if costs is None:
            given = lambda *p: inputs_given(None, *p)  # noqa: E731
            return jax.jvp(given, places.at, places.moved)
        return jax.jvp(inputs_given, (costs[0], *places.at), (costs[1], *places.moved))

    return jax.vmap(see)(places, costs)


def path_inputs(kind: Kind, points: Points, pairs: Pairs) -> PathInputs:
    """The path over each pair: GEMM and accelerator move geometrically, constants linearly."""
    shares = np.concatenate([[0.5], (np.arange(PATH_NODES) + 0.5) / PATH_NODES])
    start, end = take(points, pairs.first), take(points, pairs.second)
    places = _places(start, end, jnp.asarray(shares, float))
    # Two programs: as one, XLA takes five times as long to compile them.
    found = _seen(places, None if kind == "learned" else _costs(places))
    unfolded = lambda x: x.reshape(len(pairs.factor), len(shares), *x.shape[1:])  # noqa: E731
    return PathInputs(*jax.tree.map(unfolded, found))


@jax.jit
def _slopes(ensemble: Ensemble, path: PathInputs) -> Array:
    def corrected(x: Array) -> Array:
        return jnp.mean(ensemble.corrections(x), axis=0)

    added = jax.jvp(corrected, (path.seen.features,), (path.moved.features,))[1]
    return path.moved.log_base + added


def slopes(ensemble: Ensemble | None, path: PathInputs) -> dict[str, np.ndarray]:
    """Derivatives of log cycles and log energy over each pair, [P, 2].

    Args:
      ensemble: of the path's kind; None: the base alone, which on the path of "corrected" is
        the analytic model.
      path: of `path_inputs`.

    Returns:
      "midpoint": half-way; "path": the mean over the path.
    """
    found = np.asarray(path.moved.log_base if ensemble is None else _slopes(ensemble, path))
    return {"midpoint": found[:, 0], "path": found[:, 1:].mean(axis=1)}


def change(costs: Prediction, pairs: Pairs) -> np.ndarray:
    """Change of log cycles and log energy over each pair, [P, 2], of costs [N]."""
    log = np.log(np.stack(costs, axis=-1).astype(float))
    return log[pairs.second] - log[pairs.first]


def agreement(truth: np.ndarray, estimate: np.ndarray) -> dict[str, Any]:
    """How well changes [P] agree.

    Returns:
      pairs: P. directed: pairs over which the truth changes by more than FLAT.
      sign_agreement: share of these with the right sign. cosine: of the two vectors.
      relative_error: mean absolute error over the mean absolute change. None where undefined.
    """
    directed = np.abs(truth) > FLAT
    norm = float(np.linalg.norm(truth) * np.linalg.norm(estimate))
    size = float(np.abs(truth).mean()) if len(truth) else 0.0
    same = np.sign(truth[directed]) == np.sign(estimate[directed])
    return {
        "pairs": len(truth),
        "directed": int(directed.sum()),
        "sign_agreement": float(same.mean()) if directed.any() else None,
        "cosine": float(truth @ estimate) / norm if norm else None,
        "relative_error": float(np.abs(estimate - truth).mean()) / size if size else None,
    }
