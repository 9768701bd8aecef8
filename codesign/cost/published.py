"""What published silicon says of a part: values brought to 22 nm, their mean and their range.

data/silicon.csv has one row a published number, with its source. Logic scales to 22 nm by the
factors of scaling.py; an SRAM's number is divided by CACTI's law (sram.py) of the same capacity
and width, so that the rows of one quantity are comparable: they are factors on that law. The
nominal value of a part is the geometric mean of its rows and its range their least and greatest.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from codesign.cost import sram, tables
from codesign.cost.scaling import Scaling, scaling


class Range(NamedTuple):
    """Least, mean (geometric) and greatest of what is published, at 22 nm."""

    low: float
    nominal: float
    high: float


@functools.cache
def published(part: str, quantity: str) -> Range:
    """The range of a part's quantity, in the unit of the quantity.

    Args:
      part, quantity: of data/silicon.csv; of "sram" the range is one of factors on CACTI's law.

    Raises:
      ValueError: nothing is published of it.
    """
    rows = [r for r in tables.rows("silicon") if (r["part"], r["quantity"]) == (part, quantity)]
    if not rows:
        raise ValueError(f"nothing is published of the {quantity} of '{part}'")
    found = [at_22_nm(row) for row in rows]
    return Range(min(found), float(np.exp(np.mean(np.log(found)))), max(found))


def at_22_nm(row: Mapping[str, str]) -> float:
    """The number of one row of data/silicon.csv at 22 nm."""
    value, node = float(row["published"]), scaling(int(row["node_nm"]))
    if row["capacity_kib"]:
        law = _sram_law(row["quantity"], float(row["capacity_kib"]), float(row["width_bytes"]))
        return value / _factor(row["quantity"], node) / law
    return value / _factor(row["quantity"], node)


def _factor(quantity: str, node: Scaling) -> float:
    """The node's factor on 22 nm."""
    factors = {
        "area_um2": node.logic_area,
        "energy_pj": node.logic_energy,
        "area_mm2": node.sram_area,
        "access_pj_per_byte": (node.sram_read * node.sram_write) ** 0.5,
    }
    return factors.get(quantity, 1.0)  # wires and ratios do not scale


def _sram_law(quantity: str, capacity_kib: float, width_bytes: float) -> float:
    """CACTI's area, or energy of reading and writing a byte (their geometric mean)."""
    if quantity == "area_mm2":
        return float(sram.area_mm2(capacity_kib, width_bytes))
    read = sram.read_pj_per_byte(capacity_kib, width_bytes)
    write = sram.write_pj_per_byte(capacity_kib, width_bytes)
    return float(read * write) ** 0.5
