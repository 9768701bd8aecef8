"""Energy, area and leakage of on-chip SRAM as smooth laws of capacity and width.

CACTI picks a discrete organisation for each array, so its curves jump by 10-25 %.
Sums of power laws with non-negative coefficients and exponents are fitted to them
in log space by benchmarks/fit_sram.py, which prints the errors; being monotone,
they give a search no artificial dips to fall into. With capacity c in KiB and
access width w in bytes:

    read, write  [pJ per access] = a w^b + d w^e c^f + g c^h
    area [mm2]   = a c^b w^d          leakage [mW] = a c^b + d w^e
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.cost.tables import table

Array = jax.Array
Scalar = Array | float

# The widest access the fitted arrays were generated for, bytes. A wider port is
# several of them side by side, so energy per byte stays that of this width.
MAX_WIDTH_BYTES = 128.0


@functools.cache
def _law(quantity: str) -> np.ndarray:
    row = table("sram_law_22nm", "quantity")[quantity]
    return np.array([float(x) for x in row["coefficients"].split()])


def access_law(p: np.ndarray, capacity_kib: Scalar, width_bytes: Scalar) -> Scalar:
    """Energy of one access, pJ."""
    a, b, d, e, f, g, h = p
    return (
        a * width_bytes**b + d * width_bytes**e * capacity_kib**f + g * capacity_kib**h
    )


def area_law(p: np.ndarray, capacity_kib: Scalar, width_bytes: Scalar) -> Scalar:
    """Area of one array, mm2."""
    a, b, d = p
    return a * capacity_kib**b * width_bytes**d


def leakage_law(p: np.ndarray, capacity_kib: Scalar, width_bytes: Scalar) -> Scalar:
    """Standby leakage of one array, mW."""
    a, b, d, e = p
    return a * capacity_kib**b + d * width_bytes**e


def _access_pj_per_byte(quantity: str, capacity_kib: Scalar, width_bytes: Scalar) -> Scalar:
    width = jnp.minimum(width_bytes, MAX_WIDTH_BYTES)
    return access_law(_law(quantity), capacity_kib, width) / width


def read_pj_per_byte(capacity_kib: Scalar, width_bytes: Scalar) -> Scalar:
    """Energy of reading one byte at full access width, pJ."""
    return _access_pj_per_byte("read_pj_per_access", capacity_kib, width_bytes)


def write_pj_per_byte(capacity_kib: Scalar, width_bytes: Scalar) -> Scalar:
    """Energy of writing one byte at full access width, pJ."""
    return _access_pj_per_byte("write_pj_per_access", capacity_kib, width_bytes)


def area_mm2(capacity_kib: Scalar, width_bytes: Scalar) -> Scalar:
    """Area, mm2."""
    width = jnp.minimum(width_bytes, MAX_WIDTH_BYTES)
    return area_law(_law("area_mm2"), capacity_kib, width)


def leakage_w(capacity_kib: Scalar, width_bytes: Scalar) -> Scalar:
    """Standby leakage, W."""
    width = jnp.minimum(width_bytes, MAX_WIDTH_BYTES)
    return 1e-3 * leakage_law(_law("leakage_mw"), capacity_kib, width)


class Buffer(NamedTuple):
    """What CATransformers (arXiv 2505.01386) takes one buffer to cost; scalars or arrays.

    Attributes:
      read_pj, write_pj: one 4-byte access.
      area_mm2: area.
    """

    read_pj: Scalar
    write_pj: Scalar
    area_mm2: Scalar


def buffer_reference(capacity_kib: Scalar) -> Buffer:
    """CATransformers' buffer of a capacity: exact at the sizes of its table, 4 KiB to 16 MiB.

    Straight lines through the logarithms between the sizes, and on beyond the last two.
    """
    log_kib, logs = _buffer_table()
    at = jnp.log(jnp.asarray(capacity_kib, jnp.float32))
    return Buffer(*(
        jnp.exp(jnp.interp(at, log_kib, y, left="extrapolate", right="extrapolate"))
        for y in logs
    ))


@functools.cache
def _buffer_table() -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the capacities [n], KiB, and of the three quantities [3, n]."""
    rows = table("buffer_catransformers_22nm", "capacity_bytes").values()
    columns = ("read_pj_per_access", "write_pj_per_access", "area_mm2")
    kib = [float(row["capacity_bytes"]) / 1024 for row in rows]
    values = [[float(row[column]) for row in rows] for column in columns]
    return np.log(kib), np.log(values)
