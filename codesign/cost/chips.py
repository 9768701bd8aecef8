"""Workloads executed on many accelerators, each distinct GEMM mapped once on each of them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.execution import Execution
from codesign.cost.mapper import gemm_run
from codesign.cost.mapping import is_crowded
from codesign.cost.model import Chip, Costs, costs_of, summed
from codesign.cost.residence import beside_weights, with_resident_weights
from codesign.cost.technology import Technology, technology_in
from codesign.cost.vector_unit import vector_costs
from codesign.cost.world import World
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices
from codesign.workload import Workload
from codesign.workload.operators import Live, weight_density

Array = jax.Array
# (GEMM, accelerator) pairs mapped side by side: long vectors that stay in cache.
PAIRS_AT_ONCE = 1 << 15


@jax.jit
def technologies(chips: Accelerator, world: World) -> Technology:
    """What each event costs on each of many accelerators, leaves [A]; see `technology`."""
    return technology_in(world, chips)


# Whatever a scenario changes is in the technology's leaves, so that one program maps for all.
@jax.jit
def _map_gemms(gemms: Array, chips: Accelerator, techs: Technology, crowded: Array) -> Execution:
    """Execution [N, U], without static energy, of single GEMMs on accelerators.

    Args:
      gemms: m, k, n, what is alive while each operand waits and, where some are sparse,
        densities: [U, 6 or 7].
      chips: leaves [N].
      techs: of the chips, leaves [N].
      crowded: what `is_crowded` says of all of them.
    """

    def on_chip(chip: Accelerator, tech: Technology) -> Execution:
        m, k, n, *more = gemms.T
        live, density = Live(*more[:3]), more[3:]
        run = functools.partial(gemm_run, crowded=crowded)
        run = jax.vmap(run, in_axes=(0, 0, 0, None, None, 0, 0))
        return run(m, k, n, chip, tech, density[0] if density else None, live)

    run: Execution = jax.vmap(on_chip)(chips, techs)
    return run


@jax.jit
def _sum_operators(
    mapped: Execution, which: Array, workload: Workload, chips: Accelerator, techs: Technology
) -> Execution:
    """Execution [D, A] of D workloads made of mapped GEMMs: sums alone, static energy included.

    Args:
      mapped: distinct GEMMs on every accelerator, [A, U].
      which: the distinct GEMM that each GEMM of each workload is, [D, G].
      workload: operators, [D, G] and [D, V].
      chips: accelerators, leaves [A].
      techs: of them, leaves [A].
    """

    def on_chip(chip: Accelerator, tech: Technology, mapped: Execution) -> Execution:
        gemms = mapped.map(lambda x: x[which])
        # One sum of the parts before that over the operators.
        vector = vector_costs(workload, chip, tech).merged()
        return summed(gemms, vector, workload, tech).with_static(tech).merged()

    run: Execution = jax.vmap(on_chip, out_axes=1)(chips, techs, mapped)
    return run


def stack_workloads(workloads: Sequence[Workload], multiple: int = 1) -> Workload:
    """Batches of workloads [D_i] as one batch [sum D_i], padded with operators that never run.

    Args:
      workloads: to stack.
      multiple: what the numbers of GEMMs and of element-wise operators are padded to multiples of.
    """
    longest = max(len(w.gemm_names) for w in workloads), max(len(w.vector_names) for w in workloads)
    gemms, vector_ops = (-(-operators // multiple) * multiple for operators in longest)
    sparse = any(w.density is not None for w in workloads)

    rows = [w.m.shape[0] for w in workloads]

    def side_by_side(parts: Sequence[Any], operators: int, fill: float) -> Any:
        """One number of every workload's operators, [sum D_i, operators]."""
        wide = [
            np.broadcast_to(np.asarray(x), (n, np.shape(x)[-1]))
            for x, n in zip(parts, rows, strict=True)
        ]
        return np.concatenate(
            [np.pad(x, ((0, 0), (0, operators - x.shape[-1])), constant_values=fill) for x in wide]
        )

    def padded(name: str, operators: int, fill: float) -> Any:
        given = weight_density if name == "density" else operator.attrgetter(name)
        return side_by_side([given(w) for w in workloads], operators, fill)

    def live(name: str, operators: int) -> Live | None:
        given = [getattr(w, name) for w in workloads]
        if any(each is None for each in given):
            return None
        return Live(*(side_by_side(x, operators, np.inf) for x in zip(*given, strict=True)))

    return Workload(
        **{name: padded(name, gemms, 1.0) for name in ("m", "k", "n")},
        **{name: padded(name, gemms, 0.0) for name in ("count", "starts")},
        **{
            name: padded(name, vector_ops, 0.0)
            for name in (
                "elements",
                "vector_count",
                "vector_cycles",
                "vector_operands",
                "vector_rows",
            )
        },
        density=padded("density", gemms, 1.0) if sparse else None,
        live=live("live", gemms),
        vector_live=live("vector_live", vector_ops),
        gemm_names=tuple(f"gemm_{i}" for i in range(gemms)),
        vector_names=tuple(f"vector_{i}" for i in range(vector_ops)),
    )


def run_grid(
    workloads: Sequence[Workload], chips: Accelerator, scenario: Scenario
) -> list[Execution]:
    """Execution [D, A] of workloads on every accelerator; each distinct GEMM is mapped once.

    Args:
      workloads: concrete batches of operators, each [D, G] and [D, V].
      chips: accelerators, leaves [A].
      scenario: clock and bandwidths.
    """
    chips = in_float32(chips)
    return run_on(workloads, chips, technologies(chips, World.of(scenario)))


def in_float32(chips: Accelerator) -> Accelerator:
    """The same accelerators in NumPy's float32."""
    as_float: Accelerator = jax.tree.map(lambda x: np.asarray(x, np.float32), chips)
    return as_float


def run_on(workloads: Sequence[Workload], chips: Accelerator, techs: Technology) -> list[Execution]:
    """`run_grid` where what each event costs is given.

    Args:
      workloads: concrete batches of operators, each [D, G] and [D, V].
      chips: accelerators, leaves [A], as of `in_float32`.
      techs: of them, leaves [A], as of `technologies`.
    """
    runs = _run_on(workloads, chips, techs)
    if not techs.resident_weights:
        return runs
    works = list(map(with_resident_weights, workloads))
    ways = _run_on(works, beside_weights(chips), techs)
    return [dataclasses.replace(run, resident=way) for run, way in zip(runs, ways, strict=True)]


def _run_on(
    workloads: Sequence[Workload], chips: Accelerator, techs: Technology
) -> list[Execution]:
    """Of one way to run them."""
    workload = stack_workloads(workloads)
    live = workload.live if techs.hands_over and workload.live is not None else Live()
    columns: list[Any] = [workload.m, workload.k, workload.n]
    columns += [np.broadcast_to(words, workload.m.shape) for words in live]
    columns += [] if workload.density is None else [workload.density]
    shapes = np.stack([np.asarray(x) for x in columns], axis=-1)
    gemms, which = np.unique(shapes.reshape(-1, len(columns)), axis=0, return_inverse=True)
    mapped = _mapped(gemms, chips, techs)
    run = _sum_operators(mapped, which.reshape(shapes.shape[:2]), workload, chips, techs)
    ends = np.cumsum([0, *(w.m.shape[0] for w in workloads)])
    return [run.map(lambda x, a=a, b=b: x[a:b]) for a, b in itertools.pairwise(ends)]


def _mapped(gemms: np.ndarray, chips: Accelerator, techs: Technology) -> Execution:
    """Execution [A, U], without static energy, of single GEMMs [U, 6 or 7] on chips [A]."""
    crowded = np.asarray(is_crowded(chips))
    number = len(crowded)
    # Of one size, so that one program maps all, and any other chips of the same number.
    batches = -(-number // max(1, PAIRS_AT_ONCE // len(gemms)))
    batch = -(-number // batches)
    chips, techs = jax.tree.map(np.asarray, (chips, techs))
    parts, order = [], np.zeros(number, np.int64)
    done = 0
    for kind in np.unique(crowded):
        (places,) = np.nonzero(crowded == kind)
        # Batches of one kind. Padded by more of the last chip: what they give is that chip's again.
        at = np.pad(places, (0, -len(places) % batch), mode="edge")
        for some in at.reshape(-1, batch):
            here = jax.tree.map(lambda x, some=some: x[some], (chips, techs))
            parts.append(_map_gemms(gemms, *here, kind))
        order[at] = done + np.arange(len(at))
        done += len(at)
    run: Execution = jax.tree.map(lambda *x: jnp.concatenate(x)[order], *parts)
    return run


def accelerator_grid(choices: AcceleratorChoices) -> Accelerator:
    """Every accelerator of the choices, leaves [A] in row-major order of them."""
    axes = [np.float32(getattr(choices, f.name)) for f in dataclasses.fields(choices)]
    return Accelerator(*(x.ravel() for x in np.meshgrid(*axes, indexing="ij")))


def grid_costs(
    workload: Workload, chips: Accelerator, scenario: Scenario, contents: float
) -> Costs:
    """Costs [A] of one workload on every accelerator (leaves [A]); infinite where it fits none.

    Args:
      workload: operators of one network.
      chips: accelerators.
      scenario: how they live.
      contents: of the DRAM, bytes: weights, live activations and cache.
    """
    one = jax.tree.map(lambda x: np.asarray(x)[None], workload)
    world, as_float = World.of(scenario), in_float32(chips)
    (run,) = run_on([one], as_float, technologies(as_float, world))
    return costs_on_chips(run.map(lambda x: x[0]), chips, world, contents)


@jax.jit
def costs_on_chips(run: Execution, chips: Accelerator, world: World, contents: Any) -> Costs:
    """Costs [A], without parts, of an execution on each of many accelerators.

    Args:
      run: of one network on each accelerator, static energy included, leaves [A].
      chips: accelerators, leaves [A].
      world: that they are made of and live in.
      contents: of the DRAM, bytes.
    """
    chip, scenario = Chip.of(chips, world), world.scenario
    return costs_of(run, chip, scenario, chip.stored(contents, scenario)).totals()
