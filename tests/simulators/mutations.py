"""Files in which something is not what it was: a value of their JSON, or a few of their bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

GONE = "(gone)"
# Values of every kind, most of which no field of a config can have.
NONSENSE = (
    None,
    True,
    False,
    -1,
    0,
    1,
    1.5,
    1e9,
    10**30,
    -1e-5,
    "",
    "x",
    "4",
    [],
    [1],
    ["x"],
    [8, 4],
    {},
    {"a": 1},
    GONE,
)
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


def damaged(data: bytes, rng: np.random.Generator, end: int | None = None) -> bytes:
    """A file with something wrong: bits, bytes, a cut, a hole, a piece moved, or a number changed.

    Args:
      data: the file.
      rng: draws what, and where.
      end: only bytes before it are touched; default: any.
    """
    whole, rest = bytearray(data[:end]), b"" if end is None else data[end:]
    place, other = (int(x) for x in rng.integers(len(whole), size=2))
    match rng.integers(8):
        case 0:
            whole[place] ^= 1 << int(rng.integers(8))
        case 1:
            whole[place] = int(rng.integers(256))
        case 2:
            del whole[place:]
        case 3:
            del whole[place : place + int(rng.integers(1, 9))]
        case 4:
            whole[place:place] = rng.bytes(int(rng.integers(1, 9)))
        case 5:
            whole[place : place + 8] = b"\xff" * 4 + b"\x7f" * 4
        case 6:  # another number, where there is one as text
            digits = [i for i, byte in enumerate(whole) if 48 <= byte < 58]
            if digits:
                at = digits[int(rng.integers(len(digits)))]
                whole[at : at + 1] = (b"-1", b"9", b"99999999999", b"1e9", b"")[place % 5]
        case _:
            whole[place : place + 8] = whole[other : other + 8]
    return bytes(whole) + rest
