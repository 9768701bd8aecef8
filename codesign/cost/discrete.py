"""Discrete networks on discrete chips, priced by programs that belong to no network.

`model.clip_costs` is one program for its number of operators: differentiable, and to be vmapped
over designs. A single price needs neither, and compiling takes a thousand times as long as running.
So the products of any number of networks are one list, mapped so many at a time, and operators are
padded to few lengths: two programs price them all.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.chips import stack_workloads, technologies
from codesign.cost.execution import Execution
from codesign.cost.mapper import gemm_costs
from codesign.cost.mapping import is_crowded
from codesign.cost.model import Chip, Costs, costs_and_share, summed
from codesign.cost.residence import beside_weights, with_resident_weights
from codesign.cost.technology import Technology
from codesign.cost.vector_unit import vector_costs
from codesign.cost.world import World
from codesign.scenario import Scenario
from codesign.workload import Workload

# Products mapped side by side, one program for any number of them.
_AT_ONCE = 32
# A network's operators are padded to a multiple of this, by operators that never run.
_OPERATORS = 32
# These run for milliseconds, and compile for seconds.
_QUICKLY = {"xla_backend_optimization_level": 0}


class Job(NamedTuple):
    """What is priced: a network on a chip.

    Attributes:
      work: its operators, concrete, [G] and [V].
      accelerator: scalar leaves.
      scenario: how it lives.
      contents: of the DRAM, bytes.
    """

    work: Workload
    accelerator: Accelerator
    scenario: Scenario
    contents: float


class Priced(NamedTuple):
    """A job's costs, and what its operators have of them.

    Attributes:
      costs: scalars, with their breakdown by part; infinite latency where a GEMM fits no mapping.
      gemms: (s, J) of each GEMM, [G], its starts and its share of the static energy included.
      vector: likewise of each element-wise operator, [V].
    """

    costs: Costs
    gemms: tuple[np.ndarray, np.ndarray]
    vector: tuple[np.ndarray, np.ndarray]


def priced(jobs: Sequence[Job]) -> list[Priced]:
    """Each job's costs in NumPy's float32: those of `model.workload_costs`, to rounding."""
    jobs = [job._replace(accelerator=jax.tree.map(np.float32, job.accelerator)) for job in jobs]
    techs = [jax.device_get(technologies(job.accelerator, World.of(job.scenario))) for job in jobs]
    # Some networks are run in a second way, all in one list.
    twice = [i for i, tech in enumerate(techs) if tech.resident_weights]
    every = [*jobs, *(_with_resident_weights(jobs[i]) for i in twice)]
    runs = _run_gemms(every, [*techs, *(techs[i] for i in twice)])
    ways = [_Way(job.work, job.accelerator, run) for job, run in zip(every, runs, strict=True)]
    resident = dict(zip(twice, ways[len(jobs) :], strict=True))
    return [_priced(job, techs[i], ways[i], resident.get(i)) for i, job in enumerate(jobs)]


def _with_resident_weights(job: Job) -> Job:
    """The same network with its weights in the GLB, and the chip that is left for the rest."""
    work = jax.tree.map(np.asarray, with_resident_weights(job.work))
    return job._replace(work=work, accelerator=beside_weights(job.accelerator))


def _run_gemms(jobs: Sequence[Job], techs: Sequence[Technology]) -> list[Execution]:
    """Every GEMM [G] of every job, run once on the job's accelerator."""
    groups: dict[Any, list[tuple[int, list[np.ndarray]]]] = collections.defaultdict(list)
    for i, ((work, chip, *_), tech) in enumerate(zip(jobs, techs, strict=True)):
        gemms = work.m, work.k, work.n, work.density, work.live
        numbers, structure = jax.tree.flatten((gemms, chip, tech))
        count = len(work.gemm_names)
        spread = [np.broadcast_to(np.asarray(x, np.float32), count) for x in numbers]
        # Few machines are crowded, and the others have far fewer mappings to look at.
        groups[structure, bool(is_crowded(chip))].append((i, spread))
    found: dict[int, Execution] = {}
    for (structure, crowded), members in groups.items():
        every = [np.concatenate(column) for column in zip(*(x for _, x in members), strict=True)]
        parts = []
        for start in range(0, len(every[0]), _AT_ONCE):
            batch = [x[start : start + _AT_ONCE] for x in every]
            padded = [np.pad(x, (0, _AT_ONCE - len(x)), mode="edge") for x in batch]
            parts.append(_map(*jax.tree.unflatten(structure, padded), crowded=crowded))
        run = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        first = 0
        for i, spread in members:
            own = slice(first, first + len(spread[0]))
            found[i] = jax.tree.map(operator.itemgetter(own), run)
            first = own.stop
    return [found[i] for i in range(len(jobs))]


@functools.partial(jax.jit, compiler_options=_QUICKLY)
def _map(gemms: Any, accelerator: Any, tech: Any, crowded: Any) -> Execution:
    def one(gemm: Any, accelerator: Any, tech: Any) -> Execution:
        m, k, n, density, live = gemm
        return gemm_costs(m, k, n, accelerator, tech, density, live, crowded)

    run: Execution = jax.vmap(one)(gemms, accelerator, tech)
    return run


class _Way(NamedTuple):
    """A way to run a network: operators, the chip that they find, and the GEMMs as they ran."""

    work: Workload
    accelerator: Accelerator
    gemms: Execution

    def padded(self) -> _Way:
        """The same with operators that never run, up to a multiple of _OPERATORS."""
        one = jax.tree.map(lambda x: np.asarray(x)[None], self.work)
        work = jax.tree.map(operator.itemgetter(0), stack_workloads([one], _OPERATORS))
        more = len(work.gemm_names) - len(self.work.gemm_names)
        return self._replace(work=work, gemms=self.gemms.map(lambda x: np.pad(x, (0, more))))


def _priced(job: Job, tech: Technology, streamed: _Way, resident: _Way | None) -> Priced:
    """One job whose GEMMs have run, [G], in one way or in two."""
    ways = streamed.padded(), None if resident is None else resident.padded()
    costs, *each = jax.device_get(_sum(ways, tech, job.scenario, job.contents))
    by_gemm, by_vector = (
        tuple(x[: len(names)] for x in numbers)
        for numbers, names in zip(each, (job.work.gemm_names, job.work.vector_names), strict=True)
    )
    return Priced(costs, by_gemm, by_vector)


@functools.partial(jax.jit, compiler_options=_QUICKLY)
def _sum(
    ways: tuple[_Way, _Way | None], tech: Technology, scenario: Scenario, contents: Any
) -> tuple[Costs, Any, Any]:
    """Costs; (s, J) of every GEMM, and of every element-wise operator."""

    def counted(run: Execution, count: Any, starts: Any) -> tuple[Any, Any]:
        cycles = run.cycles * count + starts * tech.start_cycles
        joules = 1e-12 * (run.dynamic_pj * count + tech.static_pj * cycles)
        return cycles / scenario.clock_hz, joules

    def of(way: _Way) -> tuple[Execution, Any]:
        """The whole execution, and what each operator has of it."""
        work, accelerator, gemms = way
        vector = vector_costs(work, accelerator, tech)
        operators = (
            counted(gemms, work.count, work.starts),
            counted(vector, work.vector_count, work.vector_count),
        )
        return summed(gemms, vector, work, tech).with_static(tech), operators

    streamed, resident = ways
    chip = Chip.of(streamed.accelerator, World(scenario, tech.costing))
    stored = chip.stored(contents, scenario)
    run, operators = of(streamed)
    if resident is None:
        return costs_and_share(run, chip, scenario, stored)[0], *operators
    other, others = of(resident)
    run = dataclasses.replace(run, resident=other)
    costs, share = costs_and_share(run, chip, scenario, stored)
    return costs, *jax.tree.map(lambda a, b: a + share * (b - a), operators, others)
