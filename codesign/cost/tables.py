"""The component tables of cost/data, read once."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

from codesign.errors import did_you_mean


@functools.cache
def rows(name: str) -> tuple[Mapping[str, str], ...]:
    """Rows of cost/data/`name`.csv in order, read only."""
    text = (resources.files("codesign.cost.data") / f"{name}.csv").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return tuple(MappingProxyType(row) for row in csv.DictReader(lines))


@functools.cache
def table(name: str, key: str) -> Mapping[str, Mapping[str, str]]:
    """Rows of cost/data/`name`.csv by the text of their `key` column, read only."""
    return MappingProxyType({row[key]: row for row in rows(name)})


def value(name: str, key: str, row: str, column: str) -> float:
    """One number of a table.

    Raises:
      ValueError: no such row; the message names the one that may be meant.
    """
    return float(text(name, key, row, column))


def text(name: str, key: str, row: str, column: str) -> str:
    """One cell of a table.

    Raises:
      ValueError: no such row; the message names the one that may be meant.
    """
    known = table(name, key)
    if row not in known:
        raise ValueError(f"unknown {key} '{row}'; {did_you_mean(row, known)}")
    return known[row][column]
