"""JSON in which one value is not what it was, by a slip of a hand or of another program."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

GONE = "(gone)"
# Values of every kind, most of which no field of a config can have.
NONSENSE = (
    None, True, False, -1, 0, 1, 1.5, 1e9, 10**30, -1e-5, "", "x", "4", [], [1], ["x"], [8, 4], {},
    {"a": 1}, GONE,
)  # fmt: skip
Place = tuple[Any, ...]


def places(obj: Any, path: Place = ()) -> Iterator[Place]:
    """Of every value inside an object or a list, as the keys that lead to it."""
    for key, value in obj.items() if isinstance(obj, dict) else enumerate(obj):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def changed(obj: Any, place: Place, value: Any) -> Any:
    """A copy with another value at a place, or with none there."""
    obj = copy.deepcopy(obj)
    inner = obj
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return obj


def mutations(obj: Any, most: int, seed: int = 0) -> Iterator[tuple[Place, Any, Any]]:
    """(place, value, the whole with that value there), each at most once, in a drawn order."""
    every = [(place, value) for place in places(obj) for value in NONSENSE]
    for i in np.random.default_rng(seed).permutation(len(every))[:most]:
        place, value = every[i]
        yield place, value, changed(obj, place, value)
