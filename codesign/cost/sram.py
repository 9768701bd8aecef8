"""Energy, area and leakage of on-chip SRAM as smooth laws of capacity and width.

CACTI picks a discrete organisation for each array, so its curves jump by 10 to 25 %,
and doubling the capacity may cost 1.2 times or 2.3 times. No sum of a few power laws
follows that: the best of seven coefficients is 71 % off at one size of the design grid.
So the law of each quantity is a monotone surface in logarithms: for capacity c in KiB
and access width w in bytes

    log2 law(c, w) = sum over i, j of  T_ij b(log2 c - i) b(log2 w - j)

with one coefficient for each power of two, i from 2 (4 KiB) to 14 (16 MiB), j from 2
(4 bytes) to 7 (128 bytes), and b the quadratic B-spline: 3/4 - d^2 within d < 1/2,
(3/2 - |d|)^2 / 2 out to 3/2. T rises along i and along j, so the law does; its slope is
continuous. Beyond the table in capacity T goes on in a straight line, a power law; from
128 MiB on area and leakage are those of so many banks of 128 MiB, in proportion to the
capacity, and the energy of an access stays on its power law of about c^0.5, the length of
the wires across the banks. A port wider than 128 bytes is several arrays side by side that
share the capacity: see `_in_banks`.
benchmarks/fit_sram.py fits T to the arrays of a power of two and prints the errors
there and on the sizes between, which the fit never sees.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.cost.tables import rows, table
from codesign.errors import did_you_mean

Array = jax.Array
Scalar = Array | float

QUANTITIES = ("read_pj_per_access", "write_pj_per_access", "area_mm2", "leakage_mw")
# The coefficients' capacities and widths. A wider port than the last is several arrays
# side by side; a narrower one than the first still opens the narrowest array CACTI makes.
CAPACITIES_KIB = tuple(4.0 * 2**i for i in range(13))
WIDTHS_BYTES = tuple(4.0 * 2**j for j in range(6))
# Octaves by which the straight continuation is written out, on either side.
_MARGIN = 4
# What a memory has as much more of as it has more banks.
_EXTENSIVE = ("area_mm2", "leakage_mw")


def bumps(position: Scalar, count: int) -> Array:
    """Quadratic B-splines centred on 0 .. count - 1, at a position: [..., count]."""
    distance = jnp.abs(jnp.asarray(position)[..., None] - jnp.arange(count))
    return jnp.where(
        distance < 0.5, 0.75 - distance**2, 0.5 * jnp.maximum(1.5 - distance, 0.0) ** 2
    )


def _continued(coefficients: np.ndarray, margin: int) -> np.ndarray:
    """Coefficients [n, ...] with `margin` more on either side, in a straight line."""
    steps = np.arange(1, margin + 1).reshape(-1, *[1] * (coefficients.ndim - 1))
    before = coefficients[0] - steps[::-1] * (coefficients[1] - coefficients[0])
    after = coefficients[-1] + steps * (coefficients[-1] - coefficients[-2])
    return np.concatenate([before, coefficients, after])


@functools.cache
def _coefficients(quantity: str) -> np.ndarray:
    """log2 T of a quantity, continued: [capacities + 2 margins, widths + 2]."""
    found = [row for row in rows("sram_law_22nm") if row["quantity"] == quantity]
    logs = np.log2([[float(row[f"{c:g}"]) for row in found] for c in CAPACITIES_KIB])
    return _continued(_continued(logs, _MARGIN).T, 1).T


# Jitted to be traced once for each kind of arguments: a design is priced by dozens of these.
@functools.partial(jax.jit, static_argnums=0)
def law(quantity: str, capacity_kib: Scalar, width_bytes: Scalar) -> Array:
    """One of QUANTITIES for an array of a capacity and access width; shapes broadcast.

    Accesses wider than the table's widest are accesses of that width: see `_in_banks`.
    """
    table_ = _coefficients(quantity)
    capacities, widths = table_.shape
    row = jnp.log2(capacity_kib / CAPACITIES_KIB[0]) + _MARGIN
    column = jnp.log2(jnp.clip(width_bytes, WIDTHS_BYTES[0], WIDTHS_BYTES[-1]) / WIDTHS_BYTES[0])
    by_capacity = bumps(jnp.clip(row, 1, capacities - 2), capacities)
    by_width = bumps(column + 1, widths)
    # Summed, not a matrix product: accelerators round the factors of those.
    terms = by_capacity[..., :, None] * table_ * by_width[..., None, :]
    octaves = jnp.maximum(row - (capacities - 2), 0.0)
    power = jnp.sum(by_width * (table_[-1] - table_[-2]), axis=-1)
    slope = 1.0 if quantity in _EXTENSIVE else power
    return jnp.exp2(jnp.sum(terms, axis=(-2, -1)) + octaves * slope)


def _access_pj_per_byte(quantity: str, capacity_kib: Scalar, width_bytes: Scalar) -> Array:
    return law(quantity, capacity_kib, width_bytes) / jnp.minimum(width_bytes, WIDTHS_BYTES[-1])


def read_pj_per_byte(capacity_kib: Scalar, width_bytes: Scalar) -> Array:
    """Energy of reading one byte at full access width, pJ; past 128 bytes that of 128."""
    return _access_pj_per_byte("read_pj_per_access", capacity_kib, width_bytes)


def write_pj_per_byte(capacity_kib: Scalar, width_bytes: Scalar) -> Array:
    """Energy of writing one byte at full access width, pJ; past 128 bytes that of 128."""
    return _access_pj_per_byte("write_pj_per_access", capacity_kib, width_bytes)


def _in_banks(quantity: str, capacity_kib: Scalar, width_bytes: Scalar) -> Array:
    """Area or leakage of a memory of any port: w / 128 arrays where that is more than one.

    Of CACTI's smallest arrays 128 bytes wide both are p + q c, a port that is there whatever
    the capacity and cells in proportion to it. So w / 128 arrays of c 128 / w each have p as
    often, and the same cells. Their energy per byte is not lower than one array's, although
    each is smaller: the wires still cross the whole capacity.
    """
    widest, smallest = WIDTHS_BYTES[-1], CAPACITIES_KIB[0]
    port = 2 * law(quantity, smallest, widest) - law(quantity, 2 * smallest, widest)
    more = jnp.maximum(width_bytes / widest - 1.0, 0.0)
    return law(quantity, capacity_kib, width_bytes) + more * port


def area_mm2(capacity_kib: Scalar, width_bytes: Scalar) -> Array:
    """Area, mm2."""
    return _in_banks("area_mm2", capacity_kib, width_bytes)


def leakage_w(capacity_kib: Scalar, width_bytes: Scalar) -> Array:
    """Standby leakage, W."""
    return 1e-3 * _in_banks("leakage_mw", capacity_kib, width_bytes)


def cacti(quantity: str, capacity_kib: float, width_bytes: float) -> float:
    """What CACTI itself says of one array: the number the law of the quantity was fitted to.

    Raises:
      ValueError: no such quantity, or the array is not in the table.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"unknown quantity '{quantity}'; {did_you_mean(quantity, QUANTITIES)}")
    for row in rows("sram_cacti_22nm"):
        if (float(row["capacity_bytes"]), float(row["width_bits"])) == (
            1024 * capacity_kib,
            8 * width_bytes,
        ):
            return float(row[quantity])
    raise ValueError(
        f"no CACTI array of {capacity_kib:g} KiB and {width_bytes:g} bytes wide; there are "
        "powers of two, 4 to 16384 KiB and 4 to 128 bytes"
    )


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
    return Buffer(
        *(
            jnp.exp(jnp.interp(at, log_kib, y, left="extrapolate", right="extrapolate"))
            for y in logs
        )
    )


@functools.cache
def _buffer_table() -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the capacities [n], KiB, and of the three quantities [3, n]."""
    rows = table("buffer_catransformers_22nm", "capacity_bytes").values()
    columns = ("read_pj_per_access", "write_pj_per_access", "area_mm2")
    kib = [float(row["capacity_bytes"]) / 1024 for row in rows]
    values = [[float(row[column]) for row in rows] for column in columns]
    return np.log(kib), np.log(values)
