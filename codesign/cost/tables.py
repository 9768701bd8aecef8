"""The component tables of cost/data, read once."""

from __future__ import annotations

import functools

from codesign import tables

_DATA = "codesign.cost.data"
rows = functools.partial(tables.rows, _DATA)
table = functools.partial(tables.table, _DATA)
text = functools.partial(tables.text, _DATA)


def value(name: str, key: str, row: str, column: str) -> float:
    """One number of a table.

    Raises:
      ValueError: no such row; the message names the one that may be meant.
    """
    return float(text(name, key, row, column))
