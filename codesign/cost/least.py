"""What a workload takes at least on an accelerator, whatever the mapping: cheap lower bounds.

No accelerator need be mapped for which these already exceed the best one known, see
search/sweep.py. Each is a term of traffic.py at its least: every operand passes each level once,
or as often as the global buffer (GLB) makes it pass the DRAM, every PE works, and no unit of the
machine waits for another. docs/cost-model.md says how near they are.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost.costing import PHYSICAL, Costing
from codesign.cost.execution import Execution
from codesign.cost.handover import Shares, shares_of, taken_words
from codesign.cost.memories import glb_words
from codesign.cost.model import Chip, Costs, Stored, costs_of_way, summed
from codesign.cost.residence import beside_weights, with_resident_weights
from codesign.cost.rounding import ceil, floor
from codesign.cost.technology import WEIGHT_REGISTER_WORDS, Technology, technology_in
from codesign.cost.vector_unit import vector_costs
from codesign.cost.world import World
from codesign.scenario import Scenario
from codesign.workload.operators import Live, Workload

Array = jax.Array
# Accelerators bounded side by side: vectors that stay in cache.
_AT_ONCE = 8192


def covers(costing: Costing) -> bool:
    """Whether the bounds hold under a costing's rules: one that pads, with sums of 32 bits."""
    if not (costing.wiring == "fixed" and costing.sizes == "padded" and costing.wide_sums):
        return False
    # Of another's rules nobody knows, unless they are ours on other components.
    own = dataclasses.replace(costing, name=PHYSICAL.name, components=PHYSICAL.components)
    return dataclasses.replace(own, scenario=PHYSICAL.scenario) == PHYSICAL


@jax.jit
def least_costs(workload: Workload, chips: Accelerator, scenario: Scenario, contents: Any) -> Costs:
    """Lower bounds of the costs [A] of one workload on every accelerator, as `grid_costs`.

    Args:
      workload: operators of one network, [G] and [V].
      chips: accelerators, leaves [A].
      scenario: how they live; of a costing that `covers`.
      contents: of the DRAM, bytes.
    """
    world = World.of(scenario)

    def on(chip: Accelerator) -> Costs:
        tech, made = technology_in(world, chip), Chip.of(chip, world)
        stored = made.stored(contents, scenario)
        least = _least_of_way(workload, chip, tech, made, scenario, stored)
        if tech.resident_weights:
            # What stays, and whether, is anything between the two ways.
            beside = beside_weights(chip)
            work = with_resident_weights(workload)
            other = _least_of_way(work, beside, tech, made, scenario, stored)
            least = jax.tree.map(jnp.minimum, least, other)
        return least

    number = len(chips.cores)
    batch = min(number, _AT_ONCE)

    def in_batches(x: Any) -> Any:
        # Padded to whole ones: a rest would be traced and compiled once more.
        padded = jnp.pad(jnp.asarray(x, jnp.float32), (0, -number % batch), mode="edge")
        return padded.reshape(-1, batch)

    found: Costs = jax.lax.map(jax.vmap(on), jax.tree.map(in_batches, chips))
    whole: Costs = jax.tree.map(lambda x: x.reshape(-1)[:number], found)
    return whole


def _least_of_way(
    workload: Workload,
    chip: Accelerator,
    tech: Technology,
    made: Chip,
    scenario: Scenario,
    stored: Stored,
) -> Costs:
    """Of one way to run a network: its weights from DRAM, or in the GLB, which stays awake."""
    run = summed(
        gemm_least(workload, chip, tech),
        vector_costs(workload, chip, tech).merged(),
        workload,
        tech,
    ).merged()

    def after(cycles: Any) -> Costs:
        timed = Execution({"all": cycles}, run.energy_pj).with_static(tech)
        return costs_of_way(timed, made, scenario, stored).totals()

    # Energy is linear in the latency until the next inference, and increases from then on.
    soon, late = after(run.cycles), after(scenario.clock_hz / scenario.inferences_per_s)
    return dataclasses.replace(
        soon,
        energy_j=jnp.minimum(soon.energy_j, late.energy_j),
        operational_kgco2e=jnp.minimum(soon.operational_kgco2e, late.operational_kgco2e),
    )


def gemm_least(workload: Workload, accelerator: Accelerator, tech: Technology) -> Execution:
    """Least execution [G] of each product of a workload on one accelerator (scalar leaves)."""
    one = functools.partial(_least, accelerator=accelerator, tech=tech)
    live = workload.live if tech.hands_over else None
    found: Execution = jax.vmap(one)(workload.m, workload.k, workload.n, workload.density, live)
    return found


def _least(
    m: Any,
    k: Any,
    n: Any,
    density: Any,
    live: Live | None,
    *,
    accelerator: Accelerator,
    tech: Technology,
) -> Execution:
    glb = glb_words(accelerator, tech.word_bytes)
    shares = Shares() if live is None else shares_of(live, glb)
    free = glb if live is None else glb - taken_words(live, glb)
    cores = accelerator.cores
    # Zeros are skipped or not, whichever is better.
    kept = 1.0 if density is None else density
    stored = 1.0 if density is None else jnp.minimum(1.0, density * (1 + tech.index_words))
    inputs, weights, outputs = m * k, k * n * stored, m * n

    columns, rows = accelerator.pe_x, accelerator.pe_y

    def array(m: Any, k: Any, n: Any) -> Any:
        return m * ceil(n / columns) * ceil(k * kept / rows)

    # All cores share one dimension.
    busy = jnp.minimum(
        array(ceil(m / cores), k, n),
        jnp.minimum(array(m, ceil(k / cores), n), array(m, k, ceil(n / cores))),
    )
    # Either sums return to L2 after each block of full registers and from each core, or registers
    # are loaded again for every row.
    blocks = k * kept / (WEIGHT_REGISTER_WORDS * rows)
    returned = tech.partial_sum_words * outputs * jnp.maximum(0.0, blocks - 1)
    reloaded = weights * jnp.maximum(0.0, m - cores)
    again_pj = jnp.minimum(
        returned * (tech.read_pj["l2"] + tech.write_pj["l2"]), reloaded * tech.read_pj["l2"]
    )
    # The array reads each input for every block of columns.
    l2_read = inputs * jnp.maximum(1.0, n / columns) + weights + outputs
    l2_written = inputs + weights + outputs
    l2_words = cores * accelerator.l2_bytes_per_cycle / tech.word_bytes
    l2_busiest = jnp.maximum(l2_read + jnp.minimum(returned, reloaded), l2_written)
    on_chip = jnp.maximum(busy, l2_busiest / l2_words)

    def of(way: _DramWords) -> tuple[Any, Any]:
        """Cycles and pJ of one way to use the GLB."""
        glb_read, glb_written = inputs + weights + way.written, way.read + outputs
        glb_cycles = jnp.maximum(glb_read, glb_written) / tech.words_per_cycle["glb"]
        dram_cycles = (way.read + way.written + way.either) / tech.words_per_cycle["dram"]
        pj = sum(
            read * tech.read_pj[level] + written * tech.write_pj[level]
            for level, read, written in (
                ("dram", way.read, way.written),
                ("glb", glb_read, glb_written),
                ("l2", l2_read, l2_written),
            )
        )
        either_pj = jnp.minimum(
            tech.read_pj["dram"] + tech.write_pj["glb"], tech.write_pj["dram"] + tech.read_pj["glb"]
        )
        cycles = jnp.maximum(on_chip, jnp.maximum(glb_cycles, dram_cycles))
        return cycles, pj + way.either * either_pj

    walked = _Walked(m, k, n, stored, tech.partial_sum_words, free, shares)
    cycles, moved_pj = zip(*map(of, _dram_words(walked)), strict=True)
    energy_pj = {
        "mac": m * k * n * kept * (tech.mac_pj + tech.read_pj["register"]),
        "register": weights * tech.write_pj["register"],
        "moved": functools.reduce(jnp.minimum, moved_pj) + again_pj,
    }
    return Execution({"gemm": functools.reduce(jnp.minimum, cycles)}, energy_pj).merged()


class _Walked(NamedTuple):
    """A product and the GLB it is walked in.

    Attributes:
      m, k, n: of the product.
      stored: words of a weight.
      sum_words: words of a partial sum.
      free: words of the GLB that blocks may take.
      shares: of the operands that are in the GLB anyway.
    """

    m: Any
    k: Any
    n: Any
    stored: Any
    sum_words: Any
    free: Any
    shares: Shares


class _DramWords(NamedTuple):
    """Words read from the DRAM, written to it, and either of both."""

    read: Any
    written: Any
    either: Any = 0.0


def _dram_words(walked: _Walked) -> list[_DramWords]:
    """Least words that pass the DRAM, for each way of `schedules.SCHEDULES` to use the GLB.

    The block of I or W that stays has all of k, so the GLB bounds its rows or columns; each of
    its blocks fetches the other operand again, unless one tile holds all of that, twice.
    A block of sums is bounded in two dimensions, and so is one of W that has a part of k; of these
    the sides are taken that move least, whole numbers or not.
    """
    m, k, n, stored, sum_words, free, shares = walked
    crossing, room = shares.crossing, shares.room
    fetched, loaded = m * k * crossing.input, k * n * stored * crossing.second
    written, sums = m * n * crossing.output, 2 * sum_words * m * n
    row, column = k * room.input, k * stored * room.second
    one_tile = (2 * m * row <= free) | (2 * n * column <= free)

    def blocks(lines: Any, kept: Any, streamed: Any) -> Any:
        """Of so many lines those that fit beside two of the stream and what they give."""
        most = floor((free - 2 * streamed) / (kept + jnp.minimum(2 * room.output, sum_words)))
        return jnp.where(one_tile, 1.0, ceil(lines / jnp.clip(most, 1, lines)))

    def sides(one: Any, other: Any, blocks: Any) -> Any:
        """The least of one x + other y with x y = blocks, neither below 1."""
        blocks = jnp.maximum(blocks, 1)
        x = jnp.clip(jnp.sqrt(other * blocks / jnp.maximum(one, 1e-9)), 1, blocks)
        return one * x + other * blocks / x

    # Parts of k: all inputs for each block of columns, or one tile with all rows of a part.
    in_parts = jnp.minimum(
        sides(fetched, sums, n * column / free) - fetched - sums,
        sums * jnp.maximum(0, 2 * m * row / free - 1),
    )
    return [
        _DramWords(fetched + loaded * blocks(m, row, column), written),
        _DramWords(fetched * blocks(n, column, row) + loaded, written),
        _DramWords(sides(fetched, loaded, m * n * sum_words / free), written),
        _DramWords(fetched + loaded, written, in_parts),
    ]
