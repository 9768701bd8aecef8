"""What a learned surrogate sees of a GEMM on an accelerator: dimensionless, in logarithms.

Two lower bounds set the scale, so that a network only has to say how far above them the
truth lies: no mapping is faster than the PEs or than moving each operand once over the
DRAM bus, nor cheaper than each MAC, and each byte once through each memory.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost.execution import Execution
from codesign.cost.memories import LEVELS, SRAMS, glb_words
from codesign.cost.rounding import ceil
from codesign.cost.technology import WEIGHT_REGISTER_WORDS, Technology

Array = jax.Array

# Raised whenever a feature changes its meaning: older files no longer fit.
VERSION = 2


class Bounds(NamedTuple):
    """Lower bounds of one GEMM; scalars.

    Attributes:
      compute, load, store: cycles of the PEs, of reading the operands from DRAM, of writing
        the result there.
      mac, registers: pJ of the MACs, of each weight once in a register.
      moved: pJ of each operand once through each memory, by its name.
    """

    compute: Array
    load: Array
    store: Array
    mac: Array
    registers: Array
    moved: dict[str, Array]

    @property
    def cycles(self) -> Array:
        """The roofline, cycles."""
        return jnp.maximum(self.compute, self.load + self.store)

    @property
    def energy_pj(self) -> Array:
        """Compulsory energy, pJ."""
        pj: Array = sum(self.moved_pj, self.mac + self.registers)
        return pj

    @property
    def moved_pj(self) -> list[Array]:
        """What each memory takes, the innermost first: a pytree forgets the order of a dict."""
        return [self.moved[level] for level in LEVELS[1:]]


def bounds(m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology) -> Bounds:
    """Lower bounds of the GEMM [m, k] x [k, n]; scalars."""
    macs, operands, result = m * k * n, m * k + k * n, m * n
    words = operands + result
    on_chip = {s.name: words * (tech.read_pj[s.name] + tech.write_pj[s.name]) for s in SRAMS}
    return Bounds(
        compute=macs / accelerator.pes,
        load=operands / tech.words_per_cycle["dram"],
        store=result / tech.words_per_cycle["dram"],
        mac=macs * (tech.mac_pj + tech.read_pj["register"]),
        registers=k * n * tech.write_pj["register"],
        moved=on_chip | {"dram": words * tech.read_pj["dram"]},
    )


def features(
    m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology
) -> tuple[Array, Bounds]:
    """Features [F] of the GEMM [m, k] x [k, n], and its bounds; scalars, floats."""
    a = accelerator
    low = bounds(m, k, n, a, tech)
    columns, rows = a.pe_x, a.pe_y
    registers = rows * WEIGHT_REGISTER_WORDS
    word, sums = tech.word_bytes, tech.partial_sum_words
    glb, l2 = glb_words(a, word), a.cores * a.l2_kib * 2.0**10 / word  # in words
    sizes = jnp.stack([m * k, k * n, sums * m * n])
    moved = (pj[level] for level in LEVELS[:-1] for pj in (tech.read_pj, tech.write_pj))
    energies = [tech.mac_pj, *moved, tech.static_pj]
    l2_rate = a.l2_bytes_per_cycle / word  # of one core, words a cycle
    # Rates at which the roofline's time would be spent elsewhere.
    busy = [
        low.compute,
        low.load,
        low.store,
        (m * k * ceil(n / columns) + k * n) / (l2_rate * a.cores),
        m * n * ceil(k / registers) * sums / (l2_rate * a.cores),
        (m * k + k * n + m * n) / tech.words_per_cycle["glb"],
        jnp.minimum(n, columns) * jnp.minimum(k, registers) / l2_rate,
    ]
    shape = [
        m,
        k,
        n,
        a.cores,
        columns,
        rows,
        a.l2_kib,
        l2_rate,
        a.glb_mib,
        tech.words_per_cycle["dram"],
        tech.words_per_cycle["glb"],
        # What whole blocks of the array, and a split over the cores, leave idle.
        _padding(n, columns),
        _padding(k, rows),
        _padding(k, registers),
        _padding(m, a.cores),
        _padding(n, a.cores * columns),
        _padding(k, a.cores * rows),
    ]
    logs = jnp.log(
        jnp.stack(
            [
                *shape,
                *(e / tech.read_pj["dram"] for e in energies),
                *(b / low.cycles for b in busy),
            ]
        )
    )
    # Nearly linear where an operand overflows a memory, flat where it fits with ease.
    fits = jnp.log1p(jnp.concatenate([sizes / glb, sizes / l2]))
    shares = jnp.stack([low.mac, *low.moved_pj]) / low.energy_pj
    return jnp.concatenate([logs, fits, shares]), low


def _padding(x: Array, block: Array) -> Array:
    """Whole blocks over what they hold, at least 1."""
    return ceil(x / block) * block / x


def analytic_features(costs: Execution, low: Bounds) -> Array:
    """Features [7] of what the analytic model says: where above the bounds, and by which part."""
    dynamic_pj = costs.dynamic_pj
    return jnp.stack(
        [
            jnp.log(costs.cycles / low.cycles),
            jnp.log(dynamic_pj / low.energy_pj),
            jnp.log(low.compute / costs.cycles),
            *(costs.energy_pj[level] / dynamic_pj for level in LEVELS),
        ]
    )
