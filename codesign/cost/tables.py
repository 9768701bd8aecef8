"""The component tables of cost/data, read once."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType


@functools.cache
def table(name: str, key: str) -> Mapping[str, Mapping[str, str]]:
    """Rows of cost/data/`name`.csv by the text of their `key` column, read only."""
    text = (resources.files("codesign.cost.data") / f"{name}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return MappingProxyType({row[key]: MappingProxyType(row) for row in rows})


def value(name: str, key: str, row: str, column: str) -> float:
    """One number of a table.

    Raises:
      ValueError: no such row; the message names the rows there are.
    """
    rows = table(name, key)
    if row not in rows:
        raise ValueError(f"unknown {key} {row!r}; known: {', '.join(rows)}")
    return float(rows[row][column])
