"""Names of many files in one: "shard-{00..99}.tar", "{a,b}/*.tar", as the shells write them."""

from __future__ import annotations

import itertools
import math
import re

from codesign.train.data.config import DataError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_MOST_NAMES = 1_000_000


def expand(pattern: str) -> list[str]:
    """Every name a pattern stands for, in the order of bash.

    {00..12} counts, with zeros where a bound has them, {0..12..4} in steps; {a,b} lists.
    Other braces stand for themselves.

    Raises:
      DataError: braces within braces, or over a million names.
    """
    if re.search(r"\{[^}]*\{", pattern):
        raise DataError(f"{pattern} has braces within braces: write the names out, joined by ::")
    # Even parts are text, odd ones stood in braces.
    parts = [
        _choices(part) if odd else [part]
        for part, odd in zip(_BRACES.split(pattern), itertools.cycle((False, True)))
    ]
    if math.prod(map(len, parts)) > _MOST_NAMES:
        raise DataError(f"{pattern} stands for over {_MOST_NAMES} names")
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def _choices(inside: str) -> list[str]:
    """What "{inside}" stands for."""
    match = _RANGE.fullmatch(inside)
    if match is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last, step = int(match[1]), int(match[2]), abs(int(match[3] or 1)) or 1
    if abs(last - first) // step > _MOST_NAMES:
        raise DataError(f"{{{inside}}} stands for over {_MOST_NAMES} names")
    padded = any(re.match(r"-?0\d", bound) for bound in match.group(1, 2))
    width = max(len(match[1]), len(match[2])) if padded else 0
    values = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [f"{value:0{width}d}" for value in values]
