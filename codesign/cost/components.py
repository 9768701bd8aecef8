"""Energy, area and standing power of the parts that a machine is made of, at 22 nm.

`nominal` is what every decision uses. `sampled` draws whole sets of components from the ranges
that published silicon leaves open (published.py), for what an uncertain number does to a result:
a `Components` is a pytree, so that a cost model that takes one can be vmapped over many.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from codesign.cost import tables
from codesign.cost.costing import PHYSICAL, Costing
from codesign.cost.dram import FACTORS
from codesign.cost.published import Range, published
from codesign.tables import read_table

# Quantiles that the ends of a range stand for, in standard deviations: 5 and 95 %.
_END = 1.6449
# Of a component's columns, the quantity of data/silicon.csv that varies with it.
_LEAKAGE = ("logic_leakage", "ratio")
_COLUMNS = ("energy_pj", "area_um2", "power_uw")
# SRAM: factors on CACTI's laws, and what is published of each.
SRAM_QUANTITIES = {
    "area": "area_mm2",
    "access": "access_pj_per_byte",
    "leakage": "leakage_ratio",
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Components:
    """One set of components; scalars, or arrays [S] of as many sets.

    Attributes:
      values: by component and column: energy_pj, area_um2, power_uw, at 22 nm and 8 bits.
      sram: factors on CACTI's laws of SRAM: "area", "access" (energy), "leakage".
      dram: factors on columns of the DRAM's row: see dram.py's `FACTORS`.
    """

    values: dict[str, dict[str, Any]]
    sram: dict[str, Any]
    dram: dict[str, Any]

    def of(self, name: str, column: str = "energy_pj") -> Any:
        """A number of a component."""
        return self.values[name][column]


def _rows(costing: Costing) -> Mapping[str, Mapping[str, str]]:
    """The rows of a costing's table by component.

    Raises:
      ValueError: a file that cannot be read, or lacks components or columns of ours.
    """
    ours = tables.table(f"{PHYSICAL.components}_22nm", "component")
    if not costing.components.endswith(".csv"):
        return tables.table(f"{costing.components}_22nm", "component")
    found = read_table(costing.components, "component")
    for name, row in ours.items():
        columns = found.get(name, {})
        for column in _COLUMNS:
            try:
                value = float(columns[column])
            except (KeyError, TypeError, ValueError):
                value = -1.0
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"{costing.components}: {name} needs a number {column}, as {row[column]} of "
                    f"the {PHYSICAL.name} costing"
                )
    return found


@functools.cache
def nominal(costing: Costing) -> Components:
    """The components of a costing's table."""
    values = {
        name: {column: float(row[column]) for column in _COLUMNS}
        for name, row in _rows(costing).items()
    }
    factors = tables.table("sram_factors_22nm", "quantity")
    srams = {name: float(row["factor"]) for name, row in factors.items()}
    return Components(values, srams, dict(FACTORS))


def sampled(costing: Costing, samples: int, seed: int = 0) -> Components:
    """Sets of components, leaves [samples], drawn from the ranges of published silicon.

    What varies together is drawn once: all components whose `varies_as` names the same part have
    one factor an area and one an energy. Factors are log-normal on either side of the nominal
    value, with 90 % of them inside the range.

    Raises:
      ValueError: a costing whose table says of no component what it varies as.
    """
    rows = _rows(costing)
    if not any(row.get("varies_as") for row in rows.values()):
        raise ValueError(f"the {costing.name} costing has no ranges of its components")
    rng, drawn = np.random.default_rng(seed), {}

    def factor(part: str, quantity: str) -> np.ndarray:
        if (part, quantity) not in drawn:
            drawn[part, quantity] = _factors(published(part, quantity), rng, samples)
        return drawn[part, quantity]

    base = nominal(costing)

    def column(name: str, quantity: str) -> Any:
        value = base.of(name, quantity)
        part = rows[name].get("varies_as")
        if not part or not value:
            return np.full(samples, value, np.float32)
        leaks = quantity == "power_uw"
        return np.float32(value * (factor(*_LEAKAGE) if leaks else factor(part, quantity)))

    values = {
        name: {quantity: column(name, quantity) for quantity in columns}
        for name, columns in base.values.items()
    }
    srams = {
        name: np.float32(base.sram[name] * factor("sram", quantity))
        for name, quantity in SRAM_QUANTITIES.items()
    }
    drams = {name: np.full(samples, value, np.float32) for name, value in base.dram.items()}
    return Components(values, srams, drams)


def _factors(found: Range, rng: np.random.Generator, samples: int) -> np.ndarray:
    """Factors [samples] on the nominal value: log-normal, its ends at 5 and 95 %."""
    normal = rng.standard_normal(samples) / _END
    up, down = np.log(found.high / found.nominal), np.log(found.nominal / found.low)
    return np.exp(normal * np.where(normal > 0, up, down))
