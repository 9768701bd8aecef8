"""JSON from outside, read within limits: whatever a file holds, plain values or one clear line.

Python's own reader takes NaN, infinities and the last of two equal keys, makes numbers and nests
of any size, and ends in other exceptions than its own for some of them. What is read here is
what every other reader of the file understands: finite numbers and unique keys; and no number,
nest or file is larger than any honest one. Text may be such as cannot be printed, as half a
surrogate pair that is escaped: see `printable`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any

from codesign.errors import UserError
from codesign.openers import read_bounded

# A tokenizer of 250 000 words takes 20 MB; read, JSON takes up to twenty times its size.
MOST_BYTES = 64 * 2**20
MOST_LEVELS = 100
MOST_DIGITS = 1000
_MOST_KEY_CHARACTERS = 60


class _Refused(ValueError):
    """Valid JSON that is not taken, with the reason."""


def read_json(path: str | os.PathLike[str]) -> Any:
    """The JSON in a file of UTF-8 text, which may begin with a byte order mark.

    Raises:
      UserError: one line that names the file: it is missing, unreadable, too large, not JSON, or
        refused by `parse_json`.
    """
    return parse_json(read_bounded(path, MOST_BYTES, "a JSON file"), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text.

    Args:
      text: bytes of UTF-8, or characters.
      where: what to call it in messages, such as its file's name.

    Raises:
      UserError: one line: not JSON, not UTF-8, NaN or infinity, a number of more than
        `MOST_DIGITS` digits, a fraction beyond a float's range, a key that is given twice, more
        than `MOST_LEVELS` levels.
    """
    try:
        characters = text.decode("utf-8") if isinstance(text, bytes) else text
        characters = characters.removeprefix("\ufeff")
        value = json.loads(
            characters,
            object_pairs_hook=_unique,
            parse_constant=_constant,
            parse_int=_number(int),
            parse_float=_number(float),
        )
        if _is_deeper(value, MOST_LEVELS):
            raise RecursionError
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not a text file in UTF-8") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise UserError(f"{where} is not JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply, {MOST_LEVELS} levels at most") from error
    except _Refused as error:
        raise UserError(f"{where}: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"key {key[:_MOST_KEY_CHARACTERS]!r} is given twice; keep one")
            seen.add(key)
    return found


def _constant(text: str) -> Any:
    raise _Refused(f"{text} is no value of JSON; give a finite number")


def _number(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    def number(text: str) -> int | float:
        if len(text) > MOST_DIGITS:
            raise _Refused(f"a number has {len(text)} digits, {MOST_DIGITS} at most")
        value = kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise _Refused(f"{text} is too large; give a finite number")
        return value

    return number


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie in each other more than `levels` deep."""
    nests = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        values = (v for nest in nests for v in (nest.values() if isinstance(nest, dict) else nest))
        nests = [value for value in values if isinstance(value, (dict, list))]
    return bool(nests)
