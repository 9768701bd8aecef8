"""CSV tables that come with the package, each read once."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from codesign.errors import did_you_mean


@functools.cache
def rows(package: str, name: str) -> tuple[Mapping[str, str], ...]:
    """Rows of `name`.csv of a package of data in order, read only; lines of "#" are comments."""
    text = (resources.files(package) / f"{name}.csv").read_text(encoding="utf-8")
    return tuple(MappingProxyType(row) for row in _parsed(text))


@functools.cache
def table(package: str, name: str, key: str) -> Mapping[str, Mapping[str, str]]:
    """The same rows by the text of their `key` column, read only."""
    return MappingProxyType({row[key]: row for row in rows(package, name)})


def read_table(path: str, key: str) -> Mapping[str, Mapping[str, str]]:
    """The rows of a user's CSV file by the text of their `key` column.

    Raises:
      ValueError: it cannot be read, or has no such column.
    """
    try:
        content = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(f"cannot read {path}: {reason}") from error
    found = _parsed(content)
    if not found or key not in found[0]:
        raise ValueError(f"{path} is no table with a column {key}")
    return {row[key]: row for row in found}


def _parsed(content: str) -> list[dict[str, str]]:
    lines = (line for line in content.splitlines() if not line.startswith("#"))
    return list(csv.DictReader(lines))


def text(package: str, name: str, key: str, row: str, column: str) -> str:
    """One cell of a table.

    Raises:
      ValueError: no such row; the message names the one that may be meant.
    """
    known = table(package, name, key)
    if row not in known:
        raise ValueError(f"unknown {key} '{row}'; {did_you_mean(row, known)}")
    return known[row][column]
