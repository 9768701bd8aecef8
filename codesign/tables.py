"""CSV tables that come with the package, each read once."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

from codesign.errors import did_you_mean


@functools.cache
def rows(package: str, name: str) -> tuple[Mapping[str, str], ...]:
    """Rows of `name`.csv of a package of data in order, read only; lines of "#" are comments."""
    text = (resources.files(package) / f"{name}.csv").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return tuple(MappingProxyType(row) for row in csv.DictReader(lines))


@functools.cache
def table(package: str, name: str, key: str) -> Mapping[str, Mapping[str, str]]:
    """The same rows by the text of their `key` column, read only."""
    return MappingProxyType({row[key]: row for row in rows(package, name)})


def text(package: str, name: str, key: str, row: str, column: str) -> str:
    """One cell of a table.

    Raises:
      ValueError: no such row; the message names the one that may be meant.
    """
    known = table(package, name, key)
    if row not in known:
        raise ValueError(f"unknown {key} '{row}'; {did_you_mean(row, known)}")
    return known[row][column]
