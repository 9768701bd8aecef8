"""What a workload takes at least on an accelerator, whatever the mapping: cheap lower bounds.

No accelerator need be mapped for which these already exceed the best one known, see
search/sweep.py. Each is a term of traffic.py at its least: every operand passes each level once,
every PE works, and no unit of the machine waits for another. docs/cost-model.md says how near
they are.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost.costing import PHYSICAL, Costing, costing_of
from codesign.cost.execution import Execution
from codesign.cost.handover import Shares, shares_of
from codesign.cost.mapping import glb_words
from codesign.cost.model import Chip, Costs, costs_of, summed
from codesign.cost.rounding import ceil
from codesign.cost.technology import Technology, technology
from codesign.cost.vector_unit import vector_costs
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

    def on(chip: Accelerator) -> Costs:
        tech = technology(chip, scenario)
        run = summed(
            gemm_least(workload, chip, tech),
            vector_costs(workload, chip, tech).merged(),
            workload,
            tech,
        ).merged()
        dram_gb = costing_of(scenario).dram_capacity_gb(contents, chip.channels, scenario)

        def after(cycles: Any) -> Costs:
            timed = Execution({"all": cycles}, run.energy_pj).with_static(tech)
            return costs_of(timed, Chip.of(chip, scenario), scenario, dram_gb).totals()

        # Energy is linear in the latency until the next inference, and increases from then on.
        soon, late = after(run.cycles), after(scenario.clock_hz / scenario.inferences_per_s)
        return dataclasses.replace(
            soon,
            energy_j=jnp.minimum(soon.energy_j, late.energy_j),
            operational_kgco2e=jnp.minimum(soon.operational_kgco2e, late.operational_kgco2e),
        )

    number = len(chips.cores)
    batch = min(number, _AT_ONCE)

    def in_batches(x: Any) -> Any:
        # Padded to whole ones: a rest would be traced and compiled once more.
        padded = jnp.pad(jnp.asarray(x, jnp.float32), (0, -number % batch), mode="edge")
        return padded.reshape(-1, batch)

    found: Costs = jax.lax.map(jax.vmap(on), jax.tree.map(in_batches, chips))
    whole: Costs = jax.tree.map(lambda x: x.reshape(-1)[:number], found)
    return whole


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
    shares = Shares() if live is None else shares_of(live, glb_words(accelerator, tech))
    crossing, cores = shares.crossing, accelerator.cores
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
    moved = {
        "dram": (inputs * crossing.input + weights * crossing.second, outputs * crossing.output),
        "glb": (
            inputs + weights + outputs * crossing.output,
            inputs * crossing.input + weights * crossing.second + outputs,
        ),
        # The array reads each input for every block of columns.
        "l2": (
            inputs * jnp.maximum(1.0, n / columns) + weights + outputs,
            inputs + weights + outputs,
        ),
    }
    l2_words = cores * accelerator.l2_bytes_per_cycle / tech.word_bytes
    cycles = functools.reduce(
        jnp.maximum,
        (
            busy,
            jnp.maximum(*moved["glb"]) / tech.words_per_cycle["glb"],
            jnp.maximum(*moved["l2"]) / l2_words,
            sum(moved["dram"]) / tech.words_per_cycle["dram"],
        ),
    )
    energy_pj = {
        "mac": m * k * n * kept * (tech.mac_pj + tech.read_pj["register"]),
        "register": weights * tech.write_pj["register"],
        **{
            level: read * tech.read_pj[level] + written * tech.write_pj[level]
            for level, (read, written) in moved.items()
        },
    }
    return Execution({"gemm": cycles}, energy_pj).merged()
