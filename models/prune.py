"""Pruning: a smaller CLIP of the most important units of a larger one.

scores = score_units(clip, batches)
small = prune(clip, scaled(clip.architecture, 0.5), scores)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from codesign.architecture import ELASTIC, TOWERS, Architecture, Tower
from codesign.errors import did_you_mean
from codesign.models.clip import CLIP
from codesign.models.gates import Gates
from codesign.models.importance import reorder


def prune(model: CLIP, architecture: Architecture, scores: Gates) -> CLIP:
    """The sub-network of `architecture`'s dimensions with the highest scores.

    Heads and FFN units are chosen in each layer, channels once for a whole tower, layers by
    their scores and kept in their order. Where layers differ (see `dialect.py`), a unit that a
    layer lacks goes first, whatever its score.

    Args:
      model: left as it is.
      architecture: no dimension larger than the model's, nothing else different.
      scores: of `score_units`, in the shape of the model's gates.

    Raises:
      ValueError: an architecture that does not fit into the model, or scores that are not of it.
    """
    return reorder(model, scores).slice_to(architecture)


def scaled(
    architecture: Architecture, keep: float | Mapping[str, float], *, multiple: int = 8
) -> Architecture:
    """The architecture with a share of its dimensions.

    Args:
      architecture: discrete.
      keep: a share in (0, 1] of every elastic dimension; or shares by name: of one dimension,
        "vision.ffn", of one in both towers, "ffn", or of a tower, "text". The narrower name
        counts, and what is not named stays whole.
      multiple: width and ffn become the nearest multiple of this, layers and heads the nearest
        integer; never nothing, and never more than they were.

    Raises:
      ValueError: a share outside (0, 1], an unknown name, a multiple below 1.
    """
    if multiple < 1:
        raise ValueError(f"multiple is {multiple}: it must be at least 1")
    shares = keep if isinstance(keep, Mapping) else dict.fromkeys(TOWERS, keep)
    _check_shares(shares)

    def tower(name: str, whole: Tower) -> Tower:
        sizes = {}
        for dimension, size in vars(whole).items():
            share = shares.get(f"{name}.{dimension}", shares.get(dimension, shares.get(name, 1.0)))
            step = multiple if dimension in ("width", "ffn") else 1
            nearest = step * max(1, round(share * size / step))
            sizes[dimension] = size if share == 1 else min(size, nearest)
        return Tower(**sizes)

    towers: Any = {name: tower(name, whole) for name, whole in architecture.towers.items()}
    return dataclasses.replace(architecture, **towers)


def _check_shares(shares: Mapping[str, float]) -> None:
    names = [*TOWERS, *ELASTIC, *(f"{tower}.{name}" for tower in TOWERS for name in ELASTIC)]
    for name, share in shares.items():
        if name not in names:
            raise ValueError(f"keep names {name!r}, no dimension; {did_you_mean(name, names)}")
        if isinstance(share, str) or not 0 < share <= 1:
            raise ValueError(f"keep {name} is {share}: a share lies above 0 and is at most 1")
