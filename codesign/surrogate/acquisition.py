"""Which oracle points to buy next: where the members of an ensemble disagree, spread out."""

from __future__ import annotations

import numpy as np

from codesign.surrogate.models import Ensemble, Inputs


def disagreement(ensemble: Ensemble, seen: Inputs) -> np.ndarray:
    """Standard deviation of the members' log predictions, both quantities together, [N]."""
    return np.sqrt(sum(np.asarray(s) ** 2 for s in ensemble.spread_at(seen)))


def choose(score: np.ndarray, where: np.ndarray, count: int) -> np.ndarray:
    """Rows of the `count` best, greedily: a score counts less beside one already chosen.

    A batch of the highest scores alone would be one cluster, each of whose points makes the
    others needless. So each choice discounts the scores around it: to nothing at distance
    0, to 1 - exp(-1/2) = 39 % at the scale, hardly at all far off.

    Args:
      score: not negative, [N].
      where: positions of unit deviation along each axis, [N, F].
      count: how many.

    Returns:
      Distinct rows [min(count, N)], in the order of choice.
    """
    count = min(count, len(score))
    # How far apart `count` points would lie, had the cloud, whose points are sqrt(2 F) apart,
    # some four dimensions of its own.
    scale = np.sqrt(2 * where.shape[1]) * max(count, 1) ** -0.25
    left = np.array(score, float)
    chosen: list[int] = []
    for _ in range(count):
        best = int(np.argmax(left))
        chosen.append(best)
        square = ((where - where[best]) ** 2).sum(axis=1)
        left *= -np.expm1(-0.5 * square / scale**2)
        left[chosen] = -1.0
    return np.array(chosen, int)


def positions(seen: Inputs) -> np.ndarray:
    """Where points [N] lie to each other: features of unit deviation, [N, F]."""
    x = np.asarray(seen.features, float)
    deviation = x.std(axis=0)
    varies = deviation > 1e-4
    return (x[:, varies] - x[:, varies].mean(axis=0)) / deviation[varies]
