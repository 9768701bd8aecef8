"""Which loops of a GEMM run side by side on the PE arrays and on the cores.

The template's array is wired: n along its columns, k along its rows, and a dimension
that does not fill them is padded. CATransformers' mapper instead unrolls any factors of
m, k and n along either axis, but exact divisors only. Both are answers to the same
question (how many ways each dimension is split), so the mapper takes either.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.costing import Costing
from codesign.cost.technology import Technology

Array = jax.Array
Dims = dict[str, Array]

SPLITS = ("m", "k", "n")
# Divisors are looked for up to the widest axis of the template, which also bounds the
# trips of a tile loop; 49,152 and smaller numbers have at most this many.
LARGEST_DIVISOR = 256
_DIVISORS_KEPT = 56
# Ways to fill an axis of s PEs: the dimension that goes first, the share of the axis it
# may take at most, and the one that takes what is left; m fills the rest.
_SHARES = tuple(2.0**-i for i in range(9))
_FILLS = tuple((first, share) for first, share in itertools.product((2, 1), _SHARES))
_SIDES = np.array(list(itertools.product(range(len(_FILLS)), repeat=2)), np.int32)
_FIRST_IS_N = np.array([first == 2 for first, _ in _FILLS])
_SHARE = np.array([share for _, share in _FILLS], np.float32)


class Unrolling(NamedTuple):
    """Ways each dimension is split: {"m", "k", "n"} each; scalars or arrays [P].

    Attributes:
      cores: over the cores of the chip.
      pes: over the PEs of a core's array.
    """

    cores: Dims
    pes: Dims


def divisors(number: Array) -> Array:
    """Divisors of a whole number up to 256, in falling order, padded with 1; [56]."""
    candidates = jnp.arange(1, LARGEST_DIVISOR + 1, dtype=jnp.float32)
    return jnp.maximum(
        1.0,
        jax.lax.top_k(jnp.where(divides(candidates, number), candidates, 1.0), _DIVISORS_KEPT)[0],
    )


def divides(divisor: Array, number: Array) -> Array:
    """Whether whole divisors [...] leave no rest."""
    return jnp.abs(number - divisor * jnp.round(number / divisor)) < 0.5


def largest_divisor(table: Array, number: Array, limit: Array) -> Array:
    """Largest divisor of `number` that is at most `limit`.

    Args:
      table: divisors [...] of a multiple of the number.
    """
    return jnp.max(jnp.where(divides(table, number) & (table <= limit + 1e-4), table, 1.0))


def smallest_divisor(table: Array, number: Array, least: Array) -> Array:
    """Smallest divisor of `number` in the table that is at least `least`, else the number."""
    fits = divides(table, number) & (table >= least - 1e-4)
    return jnp.minimum(number, jnp.min(jnp.where(fits, table, jnp.inf)))


def core_split(
    split: Array, dims: Dims, accelerator: Accelerator, costing: Costing, tables: Dims
) -> Dims:
    """Cores that share each dimension: all along the split one."""
    cores = {d: jnp.where(split == i, accelerator.cores, 1.0) for i, d in enumerate(SPLITS)}
    if costing.sizes == "divisors":
        cores = {d: largest_divisor(tables[d], dims[d], cores[d]) for d in SPLITS}
    return cores


def unrollings(
    dims: Dims, accelerator: Accelerator, tech: Technology, tables: Dims
) -> list[Unrolling]:
    """The best way to use the PEs for each core split, in the order of SPLITS.

    Args:
      dims: whole dimensions of the GEMM, scalars.
      accelerator, tech: scalar leaves.
      tables: divisors of every dimension, for costings that need them.
    """
    costing = tech.costing
    ways = []
    for i in range(len(SPLITS)):
        cores = core_split(jnp.asarray(i), dims, accelerator, costing, tables)
        if costing.wiring == "fixed":
            pes = {"m": jnp.ones_like(dims["m"]), "k": accelerator.pe_y, "n": accelerator.pe_x}
        else:
            pes = _best_factors(*jax.lax.stop_gradient((dims, cores, accelerator, tech, tables)))
        ways.append(Unrolling(cores, pes))
    return ways


def _best_factors(
    dims: Dims, cores: Dims, accelerator: Accelerator, tech: Technology, tables: Dims
) -> Dims:
    """Factors of m, k, n along both axes of least energy x delay.

    Compared at compulsory traffic beyond the array: what does depend on the factors is
    the time in the array and the operands' way to and from L2.
    """
    share = {d: dims[d] / cores[d] for d in SPLITS}
    macs = dims["m"] * dims["k"] * dims["n"]
    sizes = dims["m"] * dims["k"] + dims["k"] * dims["n"] + dims["m"] * dims["n"]
    outside_pj = sizes * (tech.read_pj["dram"] + 2 * tech.read_pj["glb"] + 2 * tech.read_pj["l2"])
    outside_cycles = (sizes - dims["m"] * dims["n"]) / tech.words_per_cycle["dram"]

    def fill(way: Array, left: Dims, size: Array) -> Dims:
        n_first = jnp.asarray(_FIRST_IS_N)[way]
        cap = jnp.maximum(1.0, size * jnp.asarray(_SHARE)[way])
        n_cap, k_cap = jnp.where(n_first, cap, size), jnp.where(n_first, size, cap)
        n1 = largest_divisor(tables["n"], left["n"], n_cap)
        k1 = largest_divisor(tables["k"], left["k"], k_cap)
        n = jnp.where(n_first, n1, largest_divisor(tables["n"], left["n"], size / k1))
        k = jnp.where(n_first, largest_divisor(tables["k"], left["k"], size / n1), k1)
        return {"m": largest_divisor(tables["m"], left["m"], size / (n * k)), "k": k, "n": n}

    def step(best: tuple[Array, Dims], sides: Array) -> tuple[tuple[Array, Dims], None]:
        x = fill(sides[0], share, accelerator.pe_x)
        y = fill(sides[1], {d: share[d] / x[d] for d in SPLITS}, accelerator.pe_y)
        pes = {d: x[d] * y[d] for d in SPLITS}
        active = pes["m"] * pes["k"] * pes["n"]
        cycles = share["m"] * share["k"] * share["n"] / active
        l2 = (1 / pes["n"] + 2 / pes["k"]) * tech.read_pj["l2"]
        energy = macs * (tech.mac_pj + tech.read_pj["register"] + l2) + outside_pj
        edp = energy * jnp.maximum(cycles, outside_cycles)
        better = edp < best[0]
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), (edp, pes), best), None

    one = jnp.ones((), jnp.float32)
    start = jnp.full((), jnp.inf, jnp.float32), {d: one for d in SPLITS}
    return jax.lax.scan(step, start, jnp.asarray(_SIDES))[0][1]
