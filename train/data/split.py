"""Disjoint parts of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratified_split(
    labels: np.ndarray, fractions: Sequence[float], seed: int
) -> tuple[np.ndarray, ...]:
    """Disjoint random parts in which every class has its share.

    Args:
      labels: int [N].
      fractions: share of each part after the first; the first part is the rest.
      seed: same seed, same parts.

    Returns:
      `1 + len(fractions)` index arrays, int64, each in shuffled order; together they
      hold every index of `labels` once.
    """
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(1 + len(fractions))]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        # The first part is cut last, so that rounding never takes from a held-out part.
        cuts = np.round(np.cumsum(fractions) * len(members)).astype(int)
        held_out = np.split(members, cuts)
        for part, chosen in zip(parts, [held_out[-1], *held_out[:-1]], strict=True):
            part.append(chosen)
    return tuple(rng.permutation(np.concatenate(part)) for part in parts)
