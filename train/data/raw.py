"""What each reader hands over: undecorated pixels, labels, and how to treat them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class RawSplit:
    """Images as stored.

    Attributes:
      pixels: uint8 [N, S, S, C].
      labels: int32 [N].
    """

    pixels: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RawImages:
    """A data set as stored, and how it is normalised, captioned and augmented.

    Attributes:
      train, validation, test: disjoint splits.
      peak: the pixel value of full brightness, 255 for 8-bit images.
      mean, std: per channel, of pixels scaled to [0, 1].
      class_names: the words captions use, indexed by label.
      templates: captions with one `{}` for the class name.
      shift: largest random shift that keeps the class, pixels.
      flip: whether a mirrored image keeps its class.
    """

    train: RawSplit
    validation: RawSplit
    test: RawSplit
    peak: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    shift: int
    flip: bool


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
